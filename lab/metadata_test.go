package lab

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// metadata asks the metadata service from a place, with a token if it gets one.
func metadata(t *testing.T, p *Place, key string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			return p.Dial("tcp", "", addr)
		},
	}}
	const service = "http://" + imdsAddr + "/latest/"
	do := func(method, path, header, value string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, service+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(header, value)
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	status, token := do("PUT", "api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if status != http.StatusOK {
		return status, token
	}
	return do("GET", "meta-data/"+key, "X-Aws-Ec2-Metadata-Token", token)
}
