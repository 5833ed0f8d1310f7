package imds_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/lab/imds"
)

func text(s string) *string { return &s }

// ask returns a request with a good token.
func ask(t *testing.T, s *imds.Server, url string) *http.Request {
	t.Helper()
	return request(t, "GET", url, tokenHeader, token(t, s, 60))
}

// arrived waits until the log has a request for path.
func arrived(t *testing.T, s *imds.Server, path string) {
	t.Helper()
	for t.Context().Err() == nil {
		for _, r := range s.Requests() {
			if r.Path == path {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func TestFaultSelects(t *testing.T) {
	for _, c := range []struct {
		path     string
		hit, not []string
	}{
		{"", []string{metadata + "mac", "/nothing", macs}, nil},
		{"local-ipv4s", []string{primary + "local-ipv4s", second + "local-ipv4s"}, []string{primary + "mac"}},
		{"01:20/LOCAL", []string{second + "local-ipv4s"}, []string{primary + "local-ipv4s"}},
		{"/mac$", []string{metadata + "mac", primary + "mac"}, []string{macs, primary + "device-number"}},
		{"meta-data/mac$", []string{metadata + "mac"}, []string{primary + "mac"}},
		{"cidr-block$", []string{primary + "vpc-ipv4-cidr-block"}, []string{primary + "vpc-ipv4-cidr-blocks"}},
		{"/macs/$", []string{macs, strings.TrimSuffix(macs, "/")}, []string{primary, primary + "mac"}},
		{"00:10$", []string{primary, strings.TrimSuffix(primary, "/")}, []string{macs, primary + "mac"}},
	} {
		s := imds.New(imds.Primary(), imds.Secondary())
		good := token(t, s, 60)
		s.Fault(imds.Fault{Path: c.path, Status: 503})
		status := func(path string) int {
			return direct(s, request(t, "GET", path, tokenHeader, good)).Code
		}
		for _, path := range c.hit {
			if status(path) != 503 {
				t.Errorf("%q does not select %s", c.path, path)
			}
		}
		for _, path := range c.not {
			if status(path) == 503 {
				t.Errorf("%q selects %s", c.path, path)
			}
		}
		put := direct(s, request(t, "PUT", "/latest/api/token", ttlHeader, "60"))
		if (put.Code == 503) != (c.path == "") {
			t.Errorf("with %q a token is %d", c.path, put.Code)
		}
		s.Heal()
		if got, _ := get(t, s, primary+"mac"); got != 200 {
			t.Errorf("after Heal: %d", got)
		}
	}
}

func TestFaultOrderAndTimes(t *testing.T) {
	s := imds.New(imds.Primary())
	s.Fault(imds.Fault{Path: "/mac$", Times: 2, Status: 503})
	s.Fault(imds.Fault{Path: "local-ipv4s"})
	s.Fault(imds.Fault{Path: "meta-data", Status: 404})
	for i, want := range []struct {
		path   string
		status int
	}{
		{primary + "local-ipv4s", 200}, // shielded
		{metadata + "mac", 503},
		{primary + "interface-id", 404},
		{metadata + "mac", 503},
		{metadata + "mac", 404},
	} {
		if status, _ := get(t, s, want.path); status != want.status {
			t.Errorf("request %d: %d, want %d", i, status, want.status)
		}
	}
}

func TestFaultUntilAndDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := imds.New(imds.Primary())
		s.Fault(imds.Fault{Path: "meta-data", Status: 500, Until: time.Now().Add(time.Minute)})
		s.Fault(imds.Fault{Path: "meta-data", Delay: 3 * time.Second})
		check := func(want int, after time.Duration) {
			start := time.Now()
			status, _ := get(t, s, metadata+"mac")
			if took := time.Since(start); status != want || took != after {
				t.Errorf("%d after %v, want %d after %v", status, took, want, after)
			}
		}
		check(500, 0)
		time.Sleep(time.Minute)
		check(200, 3*time.Second)
	})
}

func TestFaultAnswers(t *testing.T) {
	s := imds.New(imds.Primary())
	good := token(t, s, 60)
	for _, c := range []struct {
		name   string
		fault  imds.Fault
		path   string
		token  string
		status int
		body   string // contained
	}{
		{"status", imds.Fault{Status: 429}, metadata + "mac", good, 429, "<title>429 - Too Many Requests</title>"},
		{"status without a token", imds.Fault{Status: 500}, metadata + "mac", "", 500, "<title>500"},
		{"token forgotten", imds.Fault{Status: 401}, metadata + "mac", good, 401, ""},
		{"body", imds.Fault{Body: text("garbage")}, metadata + "mac", good, 200, "garbage"},
		{"body of a key that is not", imds.Fault{Body: text("garbage")}, metadata + "nothing", good, 200, "garbage"},
		{"body without a token", imds.Fault{Body: text("garbage")}, metadata + "mac", "", 401, ""},
		{"status and body", imds.Fault{Status: 503, Body: text("slow down")}, metadata + "mac", "", 503, "slow down"},
		{"empty body", imds.Fault{Body: text("")}, metadata + "mac", good, 200, ""},
	} {
		s.Heal()
		s.Fault(c.fault)
		w := direct(s, request(t, "GET", c.path, tokenHeader, c.token))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) || c.body == "" && w.Body.Len() > 0 {
			t.Errorf("%s: %d %q", c.name, w.Code, w.Body)
		}
	}

	s.Heal()
	s.Fault(imds.Fault{Path: "token", Body: text("made-up")})
	if got := token(t, s, 60); got != "made-up" {
		t.Errorf("the token is %q", got)
	}
	if w := direct(s, request(t, "GET", metadata+"mac", tokenHeader, "made-up")); w.Code != 401 {
		t.Errorf("with a token made up by a fault: %d", w.Code)
	}

	s.Heal()
	s.Fault(imds.Fault{Redirect: "http://192.0.2.1/"})
	w := direct(s, request(t, "GET", metadata+"mac", tokenHeader, good))
	if w.Code != 302 || w.Header().Get("Location") != "http://192.0.2.1/" || w.Body.Len() > 0 {
		t.Errorf("redirect: %d %v %q", w.Code, w.Header(), w.Body)
	}
	s.Heal()
	s.Fault(imds.Fault{Redirect: "/elsewhere", Status: 307})
	if w := direct(s, request(t, "GET", metadata+"mac", tokenHeader, good)); w.Code != 307 || w.Header().Get("Location") != "/elsewhere" {
		t.Errorf("redirect with a status: %d %v", w.Code, w.Header())
	}
}

func TestFaultTruncate(t *testing.T) {
	s := imds.New(imds.Secondary())
	url := s.Listen(t)
	const whole = "10.0.1.20\n10.0.1.21"
	for n, want := range map[int]string{-1: "", 1: "1", 9: "10.0.1.20", len(whole): whole, 1000: whole} {
		s.Heal()
		s.Fault(imds.Fault{Path: "local-ipv4s", Truncate: n})
		status, body, err := fetch(ask(t, s, url+second+"local-ipv4s"))
		if status != 200 || body != want || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("truncated at %d: %d %q %v", n, status, body, err)
		}
	}
}

func TestFaultReset(t *testing.T) {
	s := imds.New(imds.Primary())
	url := s.Listen(t)
	s.Fault(imds.Fault{Path: "/mac$", Reset: true})
	s.Fault(imds.Fault{Path: "local-ipv4s", Reset: true, Body: text("")})
	for _, path := range []string{metadata + "mac", primary + "local-ipv4s"} {
		if _, body, err := fetch(ask(t, s, url+path)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %q %v, want a reset", path, body, err)
		}
	}
	if status, _, err := fetch(ask(t, s, url+primary+"interface-id")); status != 200 || err != nil {
		t.Errorf("the server did not outlive a reset: %d %v", status, err)
	}
}

func TestFaultHang(t *testing.T) {
	s := imds.New(imds.Primary())
	url := s.Listen(t)
	s.Fault(imds.Fault{Path: "meta-data", Hang: true})
	hang := func(ctx context.Context, path string) chan error {
		r := ask(t, s, url+path).WithContext(ctx)
		ended := make(chan error, 1)
		go func() {
			_, _, err := fetch(r)
			ended <- err
		}()
		arrived(t, s, path)
		return ended
	}

	ctx, giveUp := context.WithCancel(t.Context())
	gone := hang(ctx, metadata+"mac")
	stays := hang(t.Context(), primary)
	s.Heal()
	if status, _, err := fetch(ask(t, s, url+macs)); status != 200 || err != nil {
		t.Errorf("beside a request that hangs: %d %v", status, err)
	}
	giveUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the client that gave up: %v", err)
	}
	select {
	case err := <-stays:
		t.Errorf("a hanging request ended: %v", err)
	default:
	}
	for _, r := range s.Requests() {
		if r.Path == primary && r.Status != 0 {
			t.Errorf("a hanging request has status %d in the log", r.Status)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-stays; err == nil {
		t.Error("a hanging request was answered when the server closed")
	}
}

func TestServeEndsWithClose(t *testing.T) {
	s := imds.New(imds.Primary())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	if _, _, err := fetch(ask(t, s, "http://"+l.Addr().String()+metadata+"mac")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v after Close", err)
	}
}
