package facts

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// answers is an HTTP server in this process.
type answers func(*http.Request) (status int, body string)

func (a answers) RoundTrip(req *http.Request) (*http.Response, error) {
	status, body := a(req)
	header := http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"21600"}}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

// No answer of IMDS leads to a panic, an unsafe value, an error that is not one clear line,
// or too many requests. IMDS answers value for the key number odd, and the truth for the
// others. Waits take no real time, only the bubble's.
func FuzzIMDS(f *testing.F) {
	const whole = "device-number\ninterface-id\nlocal-ipv4s\nsubnet-ipv4-cidr-block"
	truth := map[string]string{
		keyID: "eni-0123456789abcdef1", keyDeviceNumber: "1", keyCard: "0", keyIPv4: "10.0.1.20\n10.0.1.21",
		keySubnet: "10.0.1.0/24", keyIPv4Prefixes: "10.0.1.32/28", keyIPv6: "2001:db8::20",
	}
	f.Add(200, whole, "10.0.1.20", uint8(4), "02:00:00:00:01:20/\n02:00:00:00:00:10/")
	f.Add(404, whole, "", uint8(0), "")
	f.Add(503, "interface-id", "<html>", uint8(1), "../")
	f.Add(200, "public-keys/\n"+whole+"\nipv6s\n", "fe80::1%$(id)", uint8(7), "\n\n")
	f.Fuzz(func(t *testing.T, status int, listing, value string, odd uint8, macs string) {
		const folder = "/latest/meta-data/network/interfaces/macs/"
		mac := MAC{2, 0, 0, 0, 1, 0x20}
		key := used[int(odd)%len(used)]
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int32
			by := newTransport()
			by.client.Transport = answers(func(req *http.Request) (int, string) {
				asked.Add(1)
				switch path := req.URL.Path; path {
				case "/latest/api/token":
					return 200, "token"
				case "/latest/meta-data/mac":
					return 200, "02:00:00:00:00:10"
				case folder:
					return status, macs
				case folder + mac.String() + "/":
					return 200, listing
				case folder + mac.String() + "/" + key:
					return status, value
				default:
					name := path[strings.LastIndex(path, "/")+1:]
					if !slices.Contains(used, name) {
						t.Errorf("asked for %q", path)
					}
					return 200, truth[name]
				}
			})
			m := newIMDS("http://169.254.169.254", by)
			e, err := m.ENI(t.Context(), "eth1", mac, DefaultNumbers)
			if n := asked.Load(); n > maxRequests {
				t.Errorf("%d requests", n)
			}
			if err == nil {
				mustBeSafe(t, e)
			} else {
				mustBeClear(t, err)
			}
			if _, err := m.MACs(t.Context()); err != nil {
				mustBeClear(t, err)
			}
		})
	})
}

// mustBeClear fails unless the text of an IMDSError is one clear line for the log.
func mustBeClear(t *testing.T, err error) {
	t.Helper()
	var of *IMDSError
	if !errors.As(err, &of) || len(err.Error()) > 400 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("not one clear line: %q", err)
	}
}
