package facts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

const (
	// maxAnswer bounds an answer of IMDS, in bytes. The longest real one, with 50
	// addresses, has less than 1 KiB.
	maxAnswer = 64 << 10
	// maxConns bounds the connections for the concurrent requests. They are kept alive.
	maxConns = 4
	// maxRequests bounds the requests of one question about an ENI, with retries and
	// tokens. Without errors a question takes at most 13.
	maxRequests = 20
)

// transport is the HTTP client below the SDK's. It talks to IMDS and nothing else (no
// proxy, no redirect), reads an answer whole, up to a bound, and records the outcome of
// the request, which the SDK's own errors do not always tell.
type transport struct{ client http.Client }

func newTransport() *transport {
	return &transport{client: http.Client{
		Transport: &http.Transport{
			Proxy:               nil,
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			MaxConnsPerHost:     maxConns,
			MaxIdleConnsPerHost: maxConns,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// outcome is the outcome of a request's last attempt, or of the attempt to get the token
// for it.
type outcome struct {
	status int
	err    error
	// answered says that err comes from reading the body of an answer.
	answered bool
}

type outcomeKey struct{}

// budget counts the requests that one question may still send.
type budget struct{ left atomic.Int32 }

type budgetKey struct{}

// withBudget returns a context under which at most maxRequests requests are sent.
func withBudget(ctx context.Context) context.Context {
	b := new(budget)
	b.left.Store(maxRequests)
	return context.WithValue(ctx, budgetKey{}, b)
}

func (b *budget) spent() bool { return b != nil && b.left.Add(-1) < 0 }

func (t *transport) Do(req *http.Request) (*http.Response, error) {
	seen, _ := req.Context().Value(outcomeKey{}).(*outcome)
	if seen == nil {
		seen = new(outcome)
	}
	if b, _ := req.Context().Value(budgetKey{}).(*budget); b.spent() {
		if seen.err == nil && seen.status == 0 {
			seen.err = fmt.Errorf("no answer to %d requests", maxRequests)
		}
		return nil, errors.New("the requests are used up") // get reports the outcome instead
	}
	*seen = outcome{}
	resp, err := t.client.Do(req)
	if err != nil {
		seen.err = err
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("longer than %d bytes", maxAnswer)
	}
	if err != nil {
		seen.err, seen.answered = err, true
		return nil, err
	}
	seen.status = resp.StatusCode
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// get asks for one path below /latest/meta-data/. Its errors are *IMDSError.
func (m *IMDS) get(ctx context.Context, path string) (string, error) {
	seen := new(outcome)
	out, err := m.client.GetMetadata(context.WithValue(ctx, outcomeKey{}, seen), &imds.GetMetadataInput{Path: path})
	if err == nil {
		var body []byte
		if body, err = io.ReadAll(out.Content); err == nil && len(bytes.TrimSpace(body)) == 0 {
			err = fmt.Errorf("empty answer for %s", path)
			seen = new(outcome)
		}
		if err == nil {
			return string(body), nil
		}
	}
	failed := &IMDSError{Path: path, HTTP: seen.status, Err: err}
	if seen.err != nil {
		failed.Err, failed.unreachable = seen.err, !seen.answered
		var of *url.Error
		if errors.As(seen.err, &of) {
			failed.Err = of.Err // IMDSError names the endpoint
		}
	}
	if 200 <= seen.status && seen.status < 300 {
		// The SDK could not use the token.
		failed.HTTP = 0
	}
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(failed.Err, &timeout) && timeout.Timeout():
		failed.HTTP, failed.Err = 0, fmt.Errorf("no answer in time for %s", path)
	case errors.Is(failed.Err, io.ErrUnexpectedEOF):
		failed.unreachable = false
		failed.Err = fmt.Errorf("the connection ended in the middle of the answer for %s", path)
	case seen.answered:
		failed.Err = fmt.Errorf("the answer for %s: %w", path, failed.Err)
	}
	return "", failed
}
