package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ec2net/lab/imds"
)

// Addresses of every VPC.
const (
	clientAddr = "198.51.100.7" // TEST-NET-2: what is outside
	imdsAddr   = "169.254.169.254"
)

// A Plan describes a VPC. The zero Plan is the example VPC of the package imds:
// 10.0.0.0/24 with the primary, 10.0.0.10, and 10.0.1.0/24.
type Plan struct {
	Subnets []string      // the first has the primary
	Primary []string      // addresses of the primary ENI
	Name    string        // of its interface: eth0, if it is empty
	Lease   time.Duration // of DHCP: an hour, as on EC2, if it is 0; dnsmasq's least is two minutes
	// IPv6 gives the VPC IPv6 too: each subnet has a prefix, each ENI an address, by
	// DHCPv6, and the router advertises itself every few seconds.
	IPv6 bool
}

// A VPC is a network like EC2's with one instance in it: subnets around a
// router that answers every ARP request, lets no ENI send from an address that
// is not its own, and has the DHCP server and the metadata service.
type VPC struct {
	Primary *ENI
	IMDS    *imds.Server // the VPC sets its answers about ENIs, see [ENI.Describe]
	Client  *Place       // 198.51.100.7, beyond the router

	ctx     context.Context
	name    string // of the primary's interface
	router  *machine
	subnets []*subnet

	resolvers []io.Closer // see startResolver

	mu       sync.Mutex
	enis     []*ENI
	booted   bool   // there is an instance
	instance *netns // where attached ENIs are plugged in; nil if it is off
}

// NewVPC makes a VPC, which exists until the test ends. That takes a quarter of a
// second; any number may exist at a time.
func NewVPC(tb TB, plan Plan) *VPC {
	tb.Helper()
	// The router runs the tools of one release, whatever the instance runs.
	tree := Debian(tb, "bookworm")
	v, err := newVPC(tb.Context(), tree, plan)
	if v != nil {
		tb.Cleanup(v.close)
	}
	if err != nil {
		tb.Fatalf("cannot make a VPC: %v", err)
	}
	return v
}

// newVPC returns the VPC even if it fails: the caller has to close it.
func newVPC(ctx context.Context, tree *Tree, plan Plan) (*VPC, error) {
	if plan.Subnets == nil {
		plan.Subnets = []string{"10.0.0.0/24", "10.0.1.0/24"}
	}
	if plan.Primary == nil {
		plan.Primary = []string{"10.0.0.10"}
	}
	plan.Name = cmp.Or(plan.Name, "eth0")
	if plan.Lease == 0 {
		plan.Lease = time.Hour
	}
	v := &VPC{IMDS: imds.New(), ctx: ctx, name: plan.Name}
	for i, s := range plan.Subnets {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("subnet: %w", err)
		}
		s := &subnet{prefix: prefix.Masked(), bridge: fmt.Sprintf("subnet%d", i)}
		if plan.IPv6 {
			s.six = netip.MustParsePrefix(fmt.Sprintf("2001:db8:0:%x::/64", i))
		}
		v.subnets = append(v.subnets, s)
	}
	if err := v.startRouter(tree); err != nil {
		return v, err
	}
	if err := v.startDHCP(plan.Lease); err != nil {
		return v, err
	}
	if err := v.startIMDS(); err != nil {
		return v, err
	}
	var err error
	if v.Primary, err = v.addENI(plan.Primary); err != nil {
		return v, err
	}
	v.Primary.mu.Lock()
	v.Primary.name = plan.Name
	v.Primary.mu.Unlock()
	v.tellIMDS()
	return v, nil
}

func (v *VPC) close() {
	_ = v.IMDS.Close()
	for _, r := range v.resolvers {
		_ = r.Close()
	}
	if v.Client != nil {
		v.Client.close()
	}
	if v.router != nil {
		v.router.kill()
	}
}

// AddENI makes an ENI with these addresses, the primary one first. They determine its
// subnet. It is attached to nothing.
func (v *VPC) AddENI(tb TB, addrs ...string) *ENI {
	tb.Helper()
	e, err := v.addENI(addrs)
	if err != nil {
		tb.Fatalf("cannot add an ENI: %v", err)
	}
	return e
}

func (v *VPC) addENI(addrs []string) (*ENI, error) {
	if len(addrs) == 0 {
		return nil, errors.New("no address")
	}
	first, err := netip.ParseAddr(addrs[0])
	if err != nil {
		return nil, err
	}
	e := &ENI{vpc: v, first: addrs[0], addrs: slices.Clone(addrs)}
	for _, s := range v.subnets {
		if s.prefix.Contains(first) {
			e.subnet = s
		}
	}
	if e.subnet == nil {
		return nil, fmt.Errorf("%s is in no subnet", first)
	}
	b := first.As4()
	if e.subnet.six.IsValid() {
		e.IPv6 = e.subnet.host6(b[3])
	}
	e.MAC = fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
	e.ID = fmt.Sprintf("eni-0%016x", b)
	v.mu.Lock()
	e.port = fmt.Sprintf("eni%d", len(v.enis))
	v.enis = append(v.enis, e)
	v.mu.Unlock()
	if err := v.addChecks(e); err != nil {
		return nil, err
	}
	return e, v.addDHCPHost(e)
}

// Host puts a host of its own into a subnet: an ENI with a static address,
// checked like every other.
func (v *VPC) Host(tb TB, addr string) *Place {
	tb.Helper()
	e := v.AddENI(tb, addr)
	n, err := newNetns()
	if err != nil {
		tb.Fatalf("cannot make host %s: %v", addr, err)
	}
	p := &Place{Name: "host " + addr, ENI: e, net: n}
	tb.Cleanup(p.close)
	err = e.plug(n, "eth0")
	if err == nil {
		err = n.do(func() error {
			if err := addAddress("eth0", fmt.Sprintf("%s/%d", addr, e.subnet.prefix.Bits())); err != nil {
				return err
			}
			if err := addDefaultRoute(e.subnet.router().String()); err != nil {
				return err
			}
			return waitUp("eth0")
		})
	}
	if err == nil {
		err = v.router.net.do(func() error { return waitUp(e.port) })
	}
	if err != nil {
		tb.Fatalf("cannot make host %s: %v", addr, err)
	}
	return p
}
