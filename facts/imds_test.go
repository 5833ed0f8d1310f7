package facts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ec2net/lab/imds"
)

// ask asks a server for the facts of one of its ENIs.
func ask(t *testing.T, s *imds.Server, fake imds.ENI, name string, within time.Duration) (ENI, error) {
	t.Helper()
	return askAt(t, s.Listen(t), fake, name, within)
}

func askAt(t *testing.T, url string, fake imds.ENI, name string, within time.Duration) (ENI, error) {
	t.Helper()
	client, err := NewIMDS(Endpoint{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	mac, err := ParseMAC(fake.MAC)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return client.ENI(ctx, name, mac, DefaultNumbers)
}

const ample = 20 * time.Second

// rich has every key that ec2net uses.
func rich() imds.ENI {
	e := imds.Secondary()
	e.IPv6 = []string{"2001:0db8:0000:0000:0000:0000:0000:0020"}
	e.IPv6Subnets = []string{"2001:db8::/64"}
	e.IPv4Prefixes = []string{"10.0.1.32/28"}
	e.IPv6Prefixes = []string{"2001:db8:0:0:1::/80"}
	return e
}

func TestENI(t *testing.T) {
	e, err := ask(t, imds.New(imds.Primary(), rich()), rich(), "eth1", ample)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ got, want any }{
		{e.ID, rich().ID}, {e.DeviceNumber, 1}, {e.Primary, false}, {e.Gateway, netip.MustParseAddr("10.0.1.1")},
		{fmt.Sprint(e.IPv4), "[10.0.1.20 10.0.1.21]"}, {fmt.Sprint(e.IPv4Prefixes), "[10.0.1.32/28]"},
		{fmt.Sprint(e.IPv6), "[2001:db8::20]"}, {fmt.Sprint(e.IPv6Prefixes), "[2001:db8:0:0:1::/80]"},
		{fmt.Sprint(e.VPCCIDRs), "[10.0.0.0/16]"}, {e.Table(), 1001},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// ENI requests one token, one listing, and then only keys that are listed and that ec2net
// uses, all with the token, over few connections.
func TestRequests(t *testing.T) {
	for _, c := range []struct {
		name string
		eni  imds.ENI
		keys int // interface-id, device-number, network-card, local-ipv4s, subnet, VPC, and the instance's mac
	}{{"plain", imds.Secondary(), 7}, {"rich", rich(), 11}} {
		t.Run(c.name, func(t *testing.T) {
			s := imds.New(imds.Primary(), imds.Secondary(), c.eni)
			s.Set(imds.Primary(), c.eni)
			s.KeepAlive = true
			if _, err := ask(t, s, c.eni, "eth1", ample); err != nil {
				t.Fatal(err)
			}
			puts, connections := 0, map[string]bool{}
			for _, r := range s.Requests() {
				connections[r.RemoteAddr] = true
				if r.Method == "PUT" {
					puts++
				} else if !r.TokenValid {
					t.Errorf("without a token: %s %s", r.Method, r.Path)
				}
				if r.Status != 200 {
					t.Errorf("%d for %s", r.Status, r.Path)
				}
			}
			if n := len(s.Requests()); puts != 1 || n > 2+c.keys {
				t.Errorf("%d requests, %d of them for a token; at most %d and 1 are needed", n, puts, 2+c.keys)
			}
			if len(connections) > maxConns {
				t.Errorf("%d connections", len(connections))
			}
		})
	}
}

// ec2net asks IMDS directly, whatever proxy the environment names.
func TestNoProxy(t *testing.T) {
	if p := newTransport().client.Transport.(*http.Transport).Proxy; p != nil {
		t.Error("a proxy would be used")
	}
}

// The primary is the ENI whose MAC IMDS names, not the device with number 0.
func TestPrimaryByMAC(t *testing.T) {
	odd := imds.Primary()
	odd.Raw = map[string]string{keyDeviceNumber: "3"}
	if e, err := ask(t, imds.New(odd, imds.Secondary()), odd, "eth0", ample); err == nil {
		t.Errorf("a primary with another device number: %+v", e)
	}
}

func TestPrimary(t *testing.T) {
	e, err := ask(t, imds.New(imds.Primary(), imds.Secondary()), imds.Primary(), "eth0", ample)
	if err != nil || !e.Primary || e.Index != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestNetworkCard(t *testing.T) {
	for key, want := range map[string]int{"network-card": 103, "network-card-index": 103, "-": 3} {
		fake := imds.Secondary()
		fake.DeviceNumber, fake.NetworkCard, fake.NetworkCardKey = 3, 1, key
		e, err := ask(t, imds.New(imds.Primary(), fake), fake, "ens6", ample)
		if err != nil || e.Index != want {
			t.Errorf("%s: index %d, %v; want %d", key, e.Index, err, want)
		}
	}
}

// Device 0 of another network card is an ENI like others.
func TestDeviceZero(t *testing.T) {
	fake := imds.Secondary()
	fake.DeviceNumber, fake.NetworkCard = 0, 1
	for name, want := range map[string]int{"ens6": 1100, "eth4": 1004} {
		e, err := ask(t, imds.New(imds.Primary(), fake), fake, name, ample)
		if err != nil || e.Number != want || e.Primary || !e.Routed {
			t.Errorf("%s: %+v, %v; want the number %d", name, e, err, want)
		}
	}
}

// In an IPv6-only subnet the listing lacks local-ipv4s and the IPv4 block, and that means
// "there is none".
func TestIPv6Only(t *testing.T) {
	fake := rich()
	fake.Raw = map[string]string{keyIPv4: imds.Removed, keySubnet: imds.Removed, keyIPv4Prefixes: imds.Removed}
	e, err := ask(t, imds.New(imds.Primary(), fake), fake, "eth1", ample)
	if err != nil || e.HasIPv4() || len(e.IPv4) != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

// Lines may end as on Unix or as on DOS.
func TestLineEnds(t *testing.T) {
	fake := imds.Secondary()
	fake.Raw = map[string]string{keyIPv4: "10.0.1.20\r\n10.0.1.21 \r\n\r\n", keyID: "eni-1\r\n", keyDeviceNumber: " 1\n"}
	e, err := ask(t, imds.New(imds.Primary(), fake), fake, "eth1", ample)
	if err != nil || fmt.Sprint(e.IPv4) != "[10.0.1.20 10.0.1.21]" || e.ID != "eni-1" {
		t.Errorf("%+v, %v", e, err)
	}
}

// Each of these is "could not ask", never "there is none".
func TestCouldNotAsk(t *testing.T) {
	body := func(s string) *string { return &s }
	big := strings.Repeat("1", 10<<20)
	for _, c := range []struct {
		name  string
		raw   map[string]string
		fault imds.Fault
		want  string
	}{
		{name: "MAC unknown", fault: imds.Fault{Path: "/20/$", Status: 404}, want: "404"},
		{name: "404 for the MAC", fault: imds.Fault{Path: ":20/$", Status: 404}, want: "answered 404 Not Found for network/interfaces/macs/02:00:00:00:01:20/"},
		{name: "404 for a listed key", fault: imds.Fault{Path: "local-ipv4s$", Status: 404}, want: "404 Not Found for network/interfaces/macs/02:00:00:00:01:20/local-ipv4s"},
		{name: "404 for everything", fault: imds.Fault{Status: 404}, want: "404"},
		{name: "403", fault: imds.Fault{Status: 403}, want: "403 Forbidden"},
		{name: "401", fault: imds.Fault{Path: "meta-data", Status: 401}, want: "401 Unauthorized"},
		{name: "500", fault: imds.Fault{Path: "device-number", Status: 500}, want: "500 Internal Server Error"},
		{name: "empty", fault: imds.Fault{Path: "device-number", Body: body("")}, want: "empty answer for network/interfaces/macs/02:00:00:00:01:20/device-number"},
		{name: "empty listing", fault: imds.Fault{Path: ":20/$", Body: body("")}, want: "empty answer"},
		{name: "an empty line for prefixes", fault: imds.Fault{Path: "ipv4-prefix$", Body: body("\n")}, want: "empty answer"},
		{name: "listing cut", fault: imds.Fault{Path: ":20/$", Body: body("device-number\ninterface-id\n")}, want: "local-ipv4s: missing"},
		{name: "incomplete listing", raw: map[string]string{keyID: imds.Removed}, want: "it has no interface-id"},
		{name: "page as listing", fault: imds.Fault{Path: ":20/$", Body: body("<html>\n<body>hello</body>\n</html>")}, want: "is incomplete"},
		{name: "truncated", fault: imds.Fault{Path: "local-ipv4s$", Body: body("10.0.1.20\n10.0.1.21"), Truncate: 12}, want: "ended in the middle of the answer"},
		{name: "reset", fault: imds.Fault{Path: "local-ipv4s$", Reset: true}, want: "local-ipv4s: "},
		{name: "redirect", fault: imds.Fault{Path: "local-ipv4s$", Redirect: "http://127.0.0.1:1/"}, want: "answered 30"},
		{name: "10 MB", fault: imds.Fault{Path: "local-ipv4s$", Body: &big}, want: "longer than 65536 bytes"},
		{name: "provisional device number", raw: map[string]string{keyDeviceNumber: "0"}, want: "device-number: 0 is the primary's"},
		{name: "device number is a word", raw: map[string]string{keyDeviceNumber: "one"}, want: `device-number: "one" is not a number`},
		{name: "command", raw: map[string]string{keyIPv4: "10.0.1.20; reboot"}, want: `local-ipv4s: "10.0.1.20; reboot" is not an address`},
		{name: "command as subnet", raw: map[string]string{keySubnet: "$(id)"}, want: `subnet-ipv4-cidr-block: "$(id)" is not`},
		{name: "newline in id", raw: map[string]string{keyID: "eni-1\npost-up id"}, want: "interface-id: "},
		{name: "zone", raw: map[string]string{keyIPv6: "2001:db8::1%$(id)"}, want: "ipv6s: "},
		{name: "megabyte", raw: map[string]string{keyID: "eni-" + big[:1<<20]}, want: "longer than"},
		{name: "another ENI's address", raw: map[string]string{keyIPv4: "10.0.2.20"}, want: "local-ipv4s: 10.0.2.20 is outside the subnet 10.0.1.0/24"},
		{name: "no address, but a subnet", raw: map[string]string{keyIPv4: imds.Removed}, want: "local-ipv4s: no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fake := rich()
			fake.Raw = c.raw
			s := imds.New(imds.Primary(), fake)
			if c.raw == nil {
				s.Fault(c.fault)
			}
			if c.name == "MAC unknown" {
				s.Set(imds.Primary())
			}
			e, err := ask(t, s, fake, "eth1", ample)
			var known *IMDSError
			if !errors.As(err, &known) {
				t.Fatalf("%+v, %v", e, err)
			}
			if !strings.Contains(err.Error(), c.want) || len(err.Error()) > 400 {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			for _, r := range s.Requests() {
				if r.Method != "PUT" && !r.HadToken {
					t.Errorf("without a token: %s", r.Path)
				}
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	for name, fault := range map[string]imds.Fault{
		"hangs at the token": {Path: "api/token", Hang: true},
		"hangs at a key":     {Path: "local-ipv4s", Hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := imds.New(imds.Primary(), rich())
			s.Fault(fault)
			_, err := ask(t, s, rich(), "eth1", 300*time.Millisecond)
			if err == nil || !strings.Contains(err.Error(), "no answer in time") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	_, err = askAt(t, url, rich(), "eth1", ample)
	var known *IMDSError
	if !errors.As(err, &known) || !strings.Contains(err.Error(), "connection refused") || known.Hint() == "" {
		t.Errorf("%v", err)
	}
}

// If IMDS refuses the token, ENI gets a new one, once.
func TestExpiredToken(t *testing.T) {
	s := imds.New(imds.Primary(), rich())
	s.Fault(imds.Fault{Path: "local-ipv4s", Status: 401, Times: 1})
	if _, err := ask(t, s, rich(), "eth1", ample); err != nil {
		t.Error(err)
	}
}

// A short outage, with 503, is no failure.
func TestShortOutage(t *testing.T) {
	s := imds.New(imds.Primary(), rich())
	s.Fault(imds.Fault{Path: "local-ipv4s", Status: 503, Times: 2})
	if _, err := ask(t, s, rich(), "eth1", ample); err != nil {
		t.Error(err)
	}
}

// However often the service fails, the number of requests is bounded.
func TestBudget(t *testing.T) {
	for name, path := range map[string]string{"everything": "", "the token": "api/token", "every key": "/macs/02", "a key": "local-ipv4s"} {
		for _, status := range []int{401, 403, 404, 429, 500, 503} {
			s := imds.New(imds.Primary(), rich())
			if path == "/macs/02" {
				s.Fault(imds.Fault{Path: rich().MAC + "/$"}) // the listing is there
			}
			s.Fault(imds.Fault{Path: path, Status: status})
			if _, err := ask(t, s, rich(), "eth1", ample); err == nil {
				t.Errorf("%s %d: no error", name, status)
			}
			n := len(s.Requests())
			t.Logf("%s %d: %d requests", name, status, n)
			if n > maxRequests {
				t.Errorf("%s %d: %d requests", name, status, n)
			}
		}
	}
}

func TestEndpoint(t *testing.T) {
	for _, bad := range []Endpoint{{URL: "169.254.169.254"}, {URL: "ftp://x"}, {URL: "http://"}, {URL: "http://x/latest"},
		{URL: "http://u:p@x"}, {URL: "http://x?y"}, {URL: "http://x?"}, {URL: "http://x\ny"}, {Mode: "IPv5"}} {
		if _, err := NewIMDS(bad); err == nil {
			t.Errorf("%+v passed", bad)
		}
	}
	for in, want := range map[Endpoint]string{
		{}:                        "http://169.254.169.254",
		{Mode: "IPv4"}:            "http://169.254.169.254",
		{Mode: "ipv6"}:            "http://[fd00:ec2::254]",
		{URL: "http://[::1]:80/"}: "http://[::1]:80",
	} {
		m, err := NewIMDS(in)
		if err != nil || m.endpoint != want {
			t.Errorf("%+v: %v, %v", in, m, err)
		}
	}
}

// No answer of IMDS leads to a panic or an unsafe value.
func FuzzAnswers(f *testing.F) {
	f.Add("eni-0123456789abcdef1", "1", "0", "10.0.1.20\n10.0.1.21", "10.0.1.0/24", "10.0.1.32/28", "2001:db8::1", "2001:db8::/64", "2001:db8:0:0:1::/80", "10.0.0.0/16", "02:00:00:00:00:10")
	f.Add("eni-$(id)", "0", "9", "10.0.0.5; reboot", "$(id)", "\n", "fe80::1%$(id)", "::/0", "x", "0.0.0.0/0", "")
	f.Fuzz(func(t *testing.T, id, device, card, ipv4, subnet, p4, ipv6, s6, p6, vpc, primary string) {
		e, err := parse("eth1", MAC{2, 0, 0, 0, 1, 0x20}, primary, map[string]string{
			keyID: id, keyDeviceNumber: device, keyCard: card, keyIPv4: ipv4, keySubnet: subnet, keyIPv4Prefixes: p4,
			keyIPv6: ipv6, keyIPv6Subnets: s6, keyIPv6Prefixes: p6, keyVPCCIDRs: vpc})
		if err == nil {
			err = e.finish(DefaultNumbers)
		}
		if err == nil {
			mustBeSafe(t, e)
		}
	})
}

// mustBeSafe fails unless an ENI has everything that templates rely on.
func mustBeSafe(t *testing.T, e ENI) {
	t.Helper()
	texts := []string{e.Name, e.ID}
	for _, a := range append(append([]netip.Addr{}, e.IPv4...), e.IPv6...) {
		texts = append(texts, a.String())
	}
	for _, s := range texts {
		if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:") != "" || s == "" {
			t.Errorf("%q is not safe", s)
		}
	}
	if e.HasIPv4() && !e.Subnet.Contains(e.Gateway) {
		t.Errorf("gateway %s is outside %s", e.Gateway, e.Subnet)
	}
	if e.Table() < minBase || e.Table() >= mainPriority {
		t.Errorf("table %d", e.Table())
	}
}
