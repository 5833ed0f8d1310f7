package lab

import (
	"fmt"

	"ec2net/lab/imds"
)

// startIMDS starts the metadata service at its address, which is the router's own: an
// instance reaches it by its default route, or by asking on any ENI's link who has
// the address; both work on EC2.
func (v *VPC) startIMDS() error {
	l, err := v.router.listen("tcp", imdsAddr+":80")
	if err != nil {
		return fmt.Errorf("metadata service: %w", err)
	}
	go func() { _ = v.IMDS.Serve(l) }()
	return nil
}

// tellIMDS tells the metadata service about the attached ENIs.
func (v *VPC) tellIMDS() {
	v.mu.Lock()
	defer v.mu.Unlock()
	var known []imds.ENI
	for _, e := range v.enis {
		if d, ok := e.description(); ok {
			known = append(known, d)
		}
	}
	v.IMDS.Set(known...)
}

// A Service says how the metadata service or the DHCP server is reached.
// [imds.Server.Fault] says what the metadata service does when it is reached.
type Service string

// It answers; connections are refused; nothing comes back.
const (
	Up      Service = ""
	Refused Service = "reject with tcp reset"
	Silent  Service = "drop"
)

// Metadata sets how the metadata service is reached, from now on.
func (v *VPC) Metadata(tb TB, s Service) {
	tb.Helper()
	script := "table inet imds {}; delete table inet imds"
	if s != Up {
		script += "; table inet imds { chain input { type filter hook input priority filter; " +
			"ip daddr " + imdsAddr + " tcp dport 80 " + string(s) + "; }; }"
	}
	if err := v.nft(script); err != nil {
		tb.Fatalf("metadata service: %v", err)
	}
}
