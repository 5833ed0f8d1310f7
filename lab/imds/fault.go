package imds

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault is a way for the service to fail. The fields combine: first the wait
// (Delay, Hang), then what is said (Status, Body, Redirect), then how it is
// cut short (Reset, Truncate). A Fault that only selects changes nothing, and
// so shields its path from the faults after it.
type Fault struct {
	// Path selects requests by a part of their path: "local-ipv4s", "/macs/",
	// "api/token". With a "$" at its end it selects by the end of the path,
	// which tells /mac$ from what lies below /macs/, and
	// vpc-ipv4-cidr-block$ from vpc-ipv4-cidr-blocks; the slash at the end of
	// a folder does not count then. Empty selects everything, the token too.
	// Case does not count.
	Path string

	// Times ends the fault after so many requests; 0 is no limit.
	Times int

	// Until ends the fault at a time; the zero time is no limit. Requests
	// that it selected before stay with it.
	Until time.Time

	// Delay holds the answer back, which is as of the arrival of the request.
	Delay time.Duration

	// Hang never answers. The connection stays open until the client gives
	// up or the server closes; Heal does not release it.
	Hang bool

	// Status replaces the status, whether the request's token is good or not,
	// and the body with AWS's page for that status. 401 is a service that
	// has forgotten its tokens, 404 a listed key that does not exist, 503
	// throttling.
	Status int

	// Body replaces the body. With Status 0 the request is answered 200, even
	// for a key that does not exist, unless it is refused for its token or
	// its headers. On api/token it replaces the token by one that the service
	// does not know.
	Body *string

	// Redirect answers with that Location, and with 302 if Status is 0. The
	// real service never redirects: a client that follows would carry its
	// token elsewhere, or take facts from there.
	Redirect string

	// Reset sends the head and half of the body and then closes the TCP
	// connection with RST.
	Reset bool

	// Truncate sends that many bytes of the body and then closes the
	// connection in the ordinary way, although Content-Length announced at
	// least one byte more. Negative sends the head alone; 0 truncates nothing.
	Truncate int
}

// activeFault is a Fault with the count of requests it has caught.
type activeFault struct {
	Fault
	caught int
}

// Fault adds a fault behind the active ones. A request gets the first active fault
// that selects it.
func (s *Server) Fault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &activeFault{Fault: f})
}

// Heal ends all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// faultFor returns the fault for a request for path, mostly the zero Fault, and
// counts it.
func (s *Server) faultFor(path string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		spent := f.Times > 0 && f.caught >= f.Times
		over := !f.Until.IsZero() && !time.Now().Before(f.Until)
		if !spent && !over && f.selects(path) {
			f.caught++
			return f.Fault
		}
	}
	return Fault{}
}

func (f Fault) selects(path string) bool {
	path, want := strings.ToLower(path), strings.ToLower(f.Path)
	if end, ok := strings.CutSuffix(want, "$"); ok {
		return strings.HasSuffix(strings.TrimSuffix(path, "/"), strings.TrimSuffix(end, "/"))
	}
	return strings.Contains(path, want)
}

// change returns the answer in place of a.
func (f Fault) change(a answer) answer {
	if f.Status != 0 {
		a = page(f.Status)
	}
	if f.Body != nil && (f.Status != 0 || a.status == http.StatusOK || a.status == http.StatusNotFound) {
		if f.Status == 0 {
			a.status = http.StatusOK
		}
		a.contentType, a.body = "text/plain", *f.Body
	}
	if f.Redirect != "" {
		if f.Status == 0 {
			a = answer{status: http.StatusFound, contentType: "text/plain"}
		}
		a = a.with("Location", f.Redirect)
	}
	return a
}

// wait holds the request for as long as the fault says. It does not return if the
// client has gone.
func (s *Server) wait(r *http.Request, f Fault) {
	var over <-chan time.Time
	switch {
	case f.Hang: // a nil channel never delivers
	case f.Delay > 0:
		over = time.After(f.Delay)
	default:
		return
	}
	select {
	case <-over:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-s.done:
		panic(http.ErrAbortHandler)
	}
}

// send writes the answer, or as much of it as the fault allows.
func (s *Server) send(w http.ResponseWriter, a answer, f Fault) {
	part, size := a.body, len(a.body)
	if f.Reset || f.Truncate != 0 {
		n := max(f.Truncate, 0)
		if f.Reset {
			n = size / 2
		}
		part = part[:min(n, size)]
		size = max(size, len(part)+1)
	}

	h := w.Header()
	for key, value := range a.header {
		h.Set(key, value)
	}
	h.Set("Server", "EC2ws")
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", strconv.Itoa(size))
	if !s.KeepAlive {
		h.Set("Connection", "close")
	}
	w.WriteHeader(a.status)
	// Errors of writing only mean that the client has gone, here and below.
	_, _ = io.WriteString(w, part)
	if len(part) == size {
		return
	}

	// net/http keeps a short body in its buffer, and drops it with the
	// connection.
	control := http.NewResponseController(w)
	_ = control.Flush()
	if f.Reset {
		if conn, _, err := control.Hijack(); err == nil {
			reset(conn)
		}
	}
	panic(http.ErrAbortHandler)
}

// reset closes a connection with RST, which the kernel sends instead of FIN when
// SO_LINGER is on and zero: socket(7), tcp(7).
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
