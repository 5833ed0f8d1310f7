// Package imds is an EC2 instance metadata service for tests and for the lab.
// It speaks version 2 only, answers like AWS's service about interfaces, their MACs
// and what cloud-init asks of the instance, fails on demand, and keeps a log of its
// requests.
//
// It follows the EC2 user guide, "Use instance metadata to manage your EC2 instance";
// where the guide is silent, transcripts of the live service that its users have
// published. It leaves out the other categories of metadata, user data, IMDSv1,
// throttling, and the hop limit of the token's answer.
package imds

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tokenPath = "/latest/api/token"

	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"

	maxTTL = 21600 // seconds: six hours
)

// Server is the service of one instance. Make one with New. All methods may
// be used while it serves.
type Server struct {
	// KeepAlive leaves connections open after an answer, to test whether a client
	// reuses one; the real service answers every request with "Connection: close".
	// Set it before serving.
	KeepAlive bool

	http     *http.Server
	done     chan struct{} // closed by Close
	closing  sync.Once
	metadata atomic.Pointer[metadata]

	mu     sync.Mutex
	tokens map[string]time.Time // to the end of its life
	faults []*activeFault
	log    []*Request
}

// Request is an entry of the request log.
type Request struct {
	Time       time.Time // when it came in
	Method     string
	Path       string
	HadToken   bool // it carried a token
	TokenValid bool // and the token was good
	Status     int  // of the answer; 0 before that

	// RemoteAddr has a port of its own for each TCP connection.
	RemoteAddr string
}

// New returns a service that knows the given ENIs. The first with device
// number 0 is the primary.
func New(enis ...ENI) *Server {
	s := &Server{
		done:   make(chan struct{}),
		tokens: map[string]time.Time{},
	}
	s.http = &http.Server{Handler: s}
	s.Set(enis...)
	return s
}

// Set replaces the ENIs, when one was attached or detached, or got an address.
func (s *Server) Set(enis ...ENI) {
	s.metadata.Store(newMetadata(enis))
}

// Serve answers requests on l, until Close.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the service for good, and all connections, the hanging ones too.
func (s *Server) Close() error {
	s.closing.Do(func() { close(s.done) })
	return s.http.Close()
}

// TB is the part of testing.TB that Listen needs. The package testing itself would
// add its flags to every program that imports this one.
type TB interface {
	Helper()
	Cleanup(func())
	Fatal(...any)
}

// Listen serves on a free port of 127.0.0.1 until the test ends, and returns
// the URL up to the port.
func (s *Server) Listen(tb TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal("cannot serve instance metadata: ", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	tb.Cleanup(func() {
		_ = s.Close()
		<-ended
	})
	return "http://" + l.Addr().String()
}

// ExpireTokens makes every token issued so far invalid.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Requests returns the log, oldest first. A request is in it from the moment
// it comes in, so that a test can wait for one that hangs.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var log []Request
	for _, r := range s.log {
		log = append(log, *r)
	}
	return log
}

// ResetLog empties the log, which otherwise only grows.
func (s *Server) ResetLog() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	left := s.tokenLife(r)
	entry := s.enter(r, left > 0)
	f := s.faultFor(r.URL.Path)
	a := f.change(s.answer(r, left))

	s.wait(r, f)

	// Before the client can have the answer and look into the log.
	s.mu.Lock()
	entry.Status = a.status
	s.mu.Unlock()
	s.send(w, a, f)
}

// enter puts a request into the log.
func (s *Server) enter(r *http.Request, valid bool) *Request {
	entry := &Request{
		Time:       time.Now(),
		Method:     r.Method,
		Path:       r.URL.Path,
		HadToken:   r.Header.Get(tokenHeader) != "",
		TokenValid: valid,
		RemoteAddr: r.RemoteAddr,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, entry)
	return entry
}

// answer is a response, whole and in order; a Fault may yet spoil it.
type answer struct {
	status      int
	contentType string
	header      map[string]string
	body        string
}

func (a answer) with(key, value string) answer {
	header := map[string]string{key: value}
	maps.Copy(header, a.header)
	a.header = header
	return a
}

// page is AWS's answer to a request that it refuses: an XHTML page, but no body for a
// missing token and a wrong method.
func page(status int) answer {
	switch status {
	case http.StatusUnauthorized, http.StatusMethodNotAllowed:
		return answer{status: status, contentType: "text/plain"}
	}
	title := fmt.Sprintf("%d - %s", status, http.StatusText(status))
	body := `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
		 "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>` + title + `</title>
 </head>
 <body>
  <h1>` + title + `</h1>
 </body>
</html>
`
	return answer{status: status, contentType: "text/html", body: body}
}

// answer answers a request whose token lives so much longer. It checks the token
// first: without one, a path that does not exist is 401, not 404.
func (s *Server) answer(r *http.Request, left time.Duration) answer {
	if r.URL.Path == tokenPath {
		return s.issue(r)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return page(http.StatusMethodNotAllowed).with("Allow", "GET, HEAD")
	}
	if left <= 0 {
		return page(http.StatusUnauthorized)
	}
	body, ok := s.read(r.URL.Path)
	if !ok {
		return page(http.StatusNotFound)
	}
	// Each answer of the live service has the remaining life of the token.
	seconds := int((left + time.Second - 1) / time.Second)
	return answer{status: http.StatusOK, contentType: "text/plain", body: body}.
		with(ttlHeader, strconv.Itoa(seconds)).
		with("Accept-Ranges", "none")
}

// read returns the body of a path.
func (s *Server) read(path string) (string, bool) {
	below := version.FindString(path)
	category, rest, _ := strings.Cut(path[len(below):], "/")
	switch {
	case below == "":
	case category == "meta-data":
		return s.metadata.Load().get(rest)
	case category == "dynamic":
		return read(dynamic, rest)
	}
	return "", false
}

// issue answers a request for a token. One that came through a proxy gets
// none: the user guide, "How Instance Metadata Service Version 2 works".
func (s *Server) issue(r *http.Request) answer {
	if r.Method != http.MethodPut {
		return page(http.StatusMethodNotAllowed).with("Allow", "OPTIONS, PUT")
	}
	if _, proxied := r.Header["X-Forwarded-For"]; proxied {
		return page(http.StatusForbidden)
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTTL {
		return page(http.StatusBadRequest)
	}

	// 40 bytes that begin alike, as the live service's tokens do.
	random := [40]byte{1, 0, 4}
	_, _ = rand.Read(random[3:]) // never fails: crypto/rand
	token := base64.URLEncoding.EncodeToString(random[:])

	now := time.Now()
	s.mu.Lock()
	maps.DeleteFunc(s.tokens, func(_ string, end time.Time) bool { return !now.Before(end) })
	s.tokens[token] = now.Add(time.Duration(ttl) * time.Second)
	s.mu.Unlock()
	return answer{status: http.StatusOK, contentType: "text/plain", body: token}.
		with(ttlHeader, strconv.Itoa(ttl))
}

// tokenLife returns the remaining life of the token of a request; 0 if it has none, or
// an unknown one.
func (s *Server) tokenLife(r *http.Request) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.tokens[r.Header.Get(tokenHeader)])
}
