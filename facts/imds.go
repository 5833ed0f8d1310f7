package facts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"ec2net/fault"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// IMDS is a client of the instance metadata service, version 2 only: every request
// has a token, and nothing falls back to version 1 (EC2 user guide, "Use the Instance
// Metadata Service").
type IMDS struct {
	client   *imds.Client
	endpoint string
}

// Endpoint says where IMDS is, in the terms of AWS's own tools.
type Endpoint struct {
	// URL is AWS_EC2_METADATA_SERVICE_ENDPOINT; empty for the default.
	URL string
	// Mode is AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE, which selects the default: "IPv4"
	// (or empty) is 169.254.169.254, "IPv6" is fd00:ec2::254.
	Mode string
}

// Address returns the IP address of the endpoint; not valid if the URL has a host name.
func (at Endpoint) Address() netip.Addr {
	endpoint, err := at.resolve()
	if err != nil {
		return netip.Addr{}
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(u.Hostname())
	return a.Unmap()
}

// Check returns an error if IMDS cannot have this endpoint.
func (at Endpoint) Check() error {
	_, err := at.resolve()
	return err
}

// NewIMDS returns a client. It sends nothing before ENI is called.
func NewIMDS(at Endpoint) (*IMDS, error) {
	endpoint, err := at.resolve()
	if err != nil {
		return nil, err
	}
	return newIMDS(endpoint, newTransport()), nil
}

func newIMDS(endpoint string, by *transport) *IMDS {
	client := imds.New(imds.Options{
		Endpoint:              endpoint,
		ClientEnableState:     imds.ClientEnabled,
		EnableFallback:        aws.FalseTernary,
		HTTPClient:            by,
		DisableDefaultTimeout: true, // the caller's context has the deadline
		// The SDK waits up to a second, which is long for a service on the same host.
		DisableDefaultMaxBackoff: true,
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = 3
			o.MaxBackoff = 200 * time.Millisecond
		}),
	})
	return &IMDS{client: client, endpoint: endpoint}
}

// resolve returns the URL of the service. It leaves nothing to the SDK, which
// would read the environment.
func (at Endpoint) resolve() (string, error) {
	if at.URL != "" {
		u, err := url.Parse(at.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || strings.ContainsAny(at.URL, "?#") {
			return "", fmt.Errorf("IMDS endpoint %s is not a URL such as http://169.254.169.254", quoted(at.URL))
		}
		return strings.TrimSuffix(at.URL, "/"), nil
	}
	switch strings.ToLower(at.Mode) {
	case "", "ipv4":
		return "http://169.254.169.254", nil
	case "ipv6":
		return "http://[fd00:ec2::254]", nil
	}
	return "", fmt.Errorf("IMDS endpoint mode %s is neither IPv4 nor IPv6", quoted(at.Mode))
}

// ENI asks for the facts of the ENI with this MAC, which has this name on the machine.
//
// It requests a token, the listing of the MAC's keys, the instance's own MAC, and
// those listed keys that ec2net uses. A key that is missing from a complete listing
// means "there is none"; a listing is complete if it has interface-id and an address.
// Anything else (no answer, a 404 for the MAC or for a listed key, an empty or an odd
// body) means "could not ask", and gives an *IMDSError. ENI makes at most 20 requests,
// whatever IMDS answers.
func (m *IMDS) ENI(ctx context.Context, name string, mac MAC, n Numbers) (ENI, error) {
	ctx, cancel := context.WithCancel(withBudget(ctx))
	defer cancel()

	folder := "network/interfaces/macs/" + mac.String() + "/"
	primary := m.start(ctx, "mac")
	listing, err := m.get(ctx, folder)
	if err != nil {
		return ENI{}, m.explain(err, mac)
	}
	listed := lines(listing)
	keys := make(map[string]func() (string, error))
	for _, key := range used {
		if slices.Contains(listed, key) {
			keys[key] = m.start(ctx, folder+key)
		}
	}
	answers := make(map[string]string, len(keys))
	for _, key := range used {
		if wait, asked := keys[key]; asked {
			if answers[key], err = wait(); err != nil {
				return ENI{}, m.explain(err, mac)
			}
		}
	}
	primaryMAC, err := primary()
	if err != nil {
		return ENI{}, m.explain(err, mac)
	}
	e, err := parse(name, mac, primaryMAC, answers)
	if err == nil {
		err = e.finish(n)
	}
	if err != nil {
		return ENI{}, &IMDSError{Endpoint: m.endpoint, Path: folder, Err: imdsTerms(err), hint: hintWait}
	}
	return e, nil
}

// MACs lists the MACs of the instance's ENIs.
func (m *IMDS) MACs(ctx context.Context) ([]MAC, error) {
	const folder = "network/interfaces/macs/"
	listing, err := m.get(withBudget(ctx), folder)
	if err != nil {
		return nil, m.explain(err, MAC{})
	}
	var macs []MAC
	for _, line := range lines(listing) {
		mac, err := ParseMAC(strings.TrimSuffix(line, "/"))
		if err != nil {
			return nil, &IMDSError{Endpoint: m.endpoint, Path: folder, Err: err}
		}
		macs = append(macs, mac)
	}
	return macs, nil
}

// start begins a request and returns the function that waits for its answer.
func (m *IMDS) start(ctx context.Context, path string) func() (string, error) {
	var (
		value string
		err   error
		done  = make(chan struct{})
	)
	go func() {
		defer close(done)
		value, err = m.get(ctx, path)
	}()
	return func() (string, error) {
		<-done
		return value, err
	}
}

// IMDSError means "could not ask": it says nothing about the ENI, so it is no reason to
// remove anything.
type IMDSError struct {
	// Endpoint is the URL of the service, Path the key below /latest/meta-data/.
	Endpoint, Path string
	// HTTP is the status of the answer, 0 if there was none.
	HTTP int
	Err  error
	hint string
	// unreachable says that nothing answered at all.
	unreachable bool
}

func (e *IMDSError) Error() string {
	if e.HTTP != 0 {
		return fmt.Sprintf("IMDS at %s answered %d %s for %s", e.Endpoint, e.HTTP, http.StatusText(e.HTTP), e.Path)
	}
	return fmt.Sprintf("IMDS at %s: %v", e.Endpoint, e.Err)
}

func (e *IMDSError) Unwrap() error { return e.Err }

// Status is the status of missing facts.
func (*IMDSError) Status() fault.Status { return fault.Facts }

// Hint says what the reader can do about it.
func (e *IMDSError) Hint() string { return e.hint }

// Unreachable reports whether nothing answered at all.
func (e *IMDSError) Unreachable() bool { return e.HTTP == 0 && e.unreachable }

// SwitchedOff reports whether an administrator has switched IMDS off, so that asking
// again at once is useless.
func (e *IMDSError) SwitchedOff() bool { return e.HTTP == http.StatusForbidden }

const hintWait = "IMDS needs up to half a minute to describe a new ENI: try again then"

func (m *IMDS) explain(err error, mac MAC) error {
	var failed *IMDSError
	if !errors.As(err, &failed) {
		return err
	}
	failed.Endpoint = m.endpoint
	switch {
	case failed.HTTP == http.StatusNotFound && strings.HasSuffix(failed.Path, mac.String()+"/"):
		failed.hint = fmt.Sprintf("IMDS knows no ENI with the MAC %s (yet): it belongs to no ENI of this instance, or to one that was attached a moment ago", mac)
	case failed.HTTP == http.StatusNotFound:
		failed.hint = hintWait
	case failed.HTTP == http.StatusForbidden:
		failed.hint = "IMDS may be switched off: aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint enabled"
	case failed.HTTP == http.StatusUnauthorized:
		failed.hint = "the service refused its own token; something else may be answering in its place"
	case failed.Unreachable():
		failed.hint = "is this an EC2 instance? Elsewhere, ec2net render --facts FILE renders from a file"
	}
	return failed
}
