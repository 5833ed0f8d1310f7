package imds_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/lab/imds"
)

const (
	metadata = "/latest/meta-data/"
	macs     = metadata + "network/interfaces/macs/"
	primary  = macs + "02:00:00:00:00:10/"
	second   = macs + "02:00:00:00:01:20/"

	tokenHeader = "X-aws-ec2-metadata-token"
	ttlHeader   = "X-aws-ec2-metadata-token-ttl-seconds"
)

// request makes a request; headers are pairs of name and value.
func request(t *testing.T, method, url string, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// direct asks the service without a network, for tests that move the clock.
func direct(s *imds.Server, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// token gets a token, past any fault.
func token(t *testing.T, s *imds.Server, ttl int) string {
	t.Helper()
	w := direct(s, request(t, "PUT", "/latest/api/token", ttlHeader, strconv.Itoa(ttl)))
	if w.Code != http.StatusOK {
		t.Fatalf("no token: status %d", w.Code)
	}
	return w.Body.String()
}

// get asks for a path with a good token.
func get(t *testing.T, s *imds.Server, path string) (status int, body string) {
	t.Helper()
	w := direct(s, request(t, "GET", path, tokenHeader, token(t, s, 60)))
	return w.Code, w.Body.String()
}

// fetch asks over TCP, on a connection of its own, and does not follow
// redirects.
func fetch(r *http.Request) (status int, body string, err error) {
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res.StatusCode, string(got), err
}

func TestTokenIsRequired(t *testing.T) {
	s := imds.New(imds.Primary())
	for _, headers := range [][]string{{}, {tokenHeader, ""}, {tokenHeader, "never-issued"}} {
		for _, path := range []string{metadata + "mac", metadata + "nothing", "/"} {
			w := direct(s, request(t, "GET", path, headers...))
			if w.Code != http.StatusUnauthorized || w.Body.Len() != 0 {
				t.Errorf("GET %s with %q: %d %q", path, headers, w.Code, w.Body)
			}
		}
	}
	other := token(t, imds.New(), 60)
	if w := direct(s, request(t, "GET", metadata+"mac", tokenHeader, other)); w.Code != http.StatusUnauthorized {
		t.Errorf("with another server's token: %d", w.Code)
	}
}

func TestTokenRequest(t *testing.T) {
	s := imds.New(imds.Primary())
	for _, c := range []struct {
		method  string
		headers []string
		want    int
	}{
		{"PUT", []string{ttlHeader, "1"}, 200},
		{"PUT", []string{ttlHeader, "21600"}, 200},
		{"PUT", nil, 400},
		{"PUT", []string{ttlHeader, "0"}, 400},
		{"PUT", []string{ttlHeader, "21601"}, 400},
		{"PUT", []string{ttlHeader, "-1"}, 400},
		{"PUT", []string{ttlHeader, "an hour"}, 400},
		{"PUT", []string{ttlHeader, "60", "X-Forwarded-For", "192.0.2.1"}, 403},
		{"PUT", []string{ttlHeader, "60", "X-Forwarded-For", ""}, 403},
		{"GET", []string{ttlHeader, "60"}, 405},
	} {
		w := direct(s, request(t, c.method, "/latest/api/token", c.headers...))
		if w.Code != c.want {
			t.Errorf("%s with %q: %d, want %d", c.method, c.headers, w.Code, c.want)
		}
		if c.want == 200 && (w.Header().Get(ttlHeader) != c.headers[1] || w.Body.Len() != 56) {
			t.Errorf("%s with %q: header %q, token %q", c.method, c.headers, w.Header().Get(ttlHeader), w.Body)
		}
	}
	if a, b := token(t, s, 60), token(t, s, 60); a == b {
		t.Errorf("two tokens are the same: %s", a)
	}
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := imds.New(imds.Primary())
		short, long := token(t, s, 10), token(t, s, 20)
		ask := func(token string) (int, string) {
			w := direct(s, request(t, "GET", metadata+"mac", tokenHeader, token))
			return w.Code, w.Header().Get(ttlHeader)
		}
		time.Sleep(9 * time.Second)
		if status, left := ask(short); status != 200 || left != "1" {
			t.Errorf("after 9 of 10 seconds: %d, %q left", status, left)
		}
		time.Sleep(time.Second)
		if status, _ := ask(short); status != 401 {
			t.Errorf("after 10 of 10 seconds: %d", status)
		}
		if status, left := ask(long); status != 200 || left != "10" {
			t.Errorf("after 10 of 20 seconds: %d, %q left", status, left)
		}
		s.ExpireTokens()
		if status, _ := ask(long); status != 401 {
			t.Errorf("after ExpireTokens: %d", status)
		}
		if status, _ := ask(token(t, s, 1)); status != 200 {
			t.Errorf("a token issued after ExpireTokens: %d", status)
		}
	})
}

func TestSetWhileServing(t *testing.T) {
	s := imds.New(imds.Primary())
	url := s.Listen(t)
	good := token(t, s, 60)
	states := map[string]bool{"": true, "02:00:00:00:00:10/": true, "02:00:00:00:00:10/\n02:00:00:00:01:20/": true}
	var changes sync.WaitGroup
	changes.Go(func() {
		for range 100 {
			s.Set()
			s.Set(imds.Secondary(), imds.Primary())
		}
	})
	for range 20 {
		status, body, err := fetch(request(t, "GET", url+macs, tokenHeader, good))
		if err != nil || status != 200 || !states[body] {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	changes.Wait()
	if _, body := get(t, s, metadata+"mac"); body != "02:00:00:00:00:10" {
		t.Errorf("mac is %q", body)
	}
	s.Set()
	if status, _ := get(t, s, metadata+"mac"); status != 404 {
		t.Errorf("mac without a primary: %d", status)
	}
}

func TestLog(t *testing.T) {
	for _, keepAlive := range []bool{false, true} {
		s := imds.New(imds.Primary())
		s.KeepAlive = keepAlive
		url := s.Listen(t)
		good := token(t, s, 60)
		s.ResetLog()
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		for _, r := range []*http.Request{
			request(t, "PUT", url+"/latest/api/token", ttlHeader, "60"),
			request(t, "GET", url+metadata+"mac"),
			request(t, "GET", url+metadata+"mac", tokenHeader, "bad"),
			request(t, "GET", url+metadata+"nothing", tokenHeader, good),
		} {
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if got := res.Header.Get("Server"); got != "EC2ws" || res.Close == keepAlive {
				t.Errorf("keep alive %v: server %q, close %v", keepAlive, got, res.Close)
			}
		}

		log := s.Requests()
		connections := map[string]bool{}
		for i := range log {
			if log[i].Time.IsZero() {
				t.Errorf("entry %d has no time", i)
			}
			connections[log[i].RemoteAddr] = true
			log[i].Time, log[i].RemoteAddr = time.Time{}, ""
		}
		want := []imds.Request{
			{Method: "PUT", Path: "/latest/api/token", Status: 200},
			{Method: "GET", Path: metadata + "mac", Status: 401},
			{Method: "GET", Path: metadata + "mac", HadToken: true, Status: 401},
			{Method: "GET", Path: metadata + "nothing", HadToken: true, TokenValid: true, Status: 404},
		}
		for i := range want {
			if i >= len(log) || log[i] != want[i] {
				t.Fatalf("the log is %+v, want %+v", log, want)
			}
		}
		if n := len(connections); n != map[bool]int{false: 4, true: 1}[keepAlive] {
			t.Errorf("keep alive %v: %d connections", keepAlive, n)
		}
		s.ResetLog()
		if n := len(s.Requests()); n != 0 {
			t.Errorf("%d entries after ResetLog", n)
		}
	}
}
