// Package kernel is netlink: it reads the network of a network namespace into
// plan's types, applies plan's changes, and tells when something has changed. No
// other package of the product imports netlink. Package memory below it is the same
// kernel without one, for tests.
package kernel

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// Kernel is the kernel of the network namespace that it was opened in.
type Kernel struct {
	// Before, if it is set, is called before each request with what is asked for
	// ("links", "addresses", "rules", "routes") or the text of the change. An error
	// is returned in place of the answer.
	Before func(request string) error
	// IsENI reports whether a veth counts as an ENI; Open sets it to what udev's
	// database says.
	IsENI func(plan.Link) bool

	route *socket

	mu     sync.Mutex
	looked []plan.Rule // those of the last look that were not deleted since
}

// Open opens the socket that requests use, in the network namespace of the calling
// thread. What needs a socket of its own (Watch, Source, a change of connections, a
// list of some hundred rules) opens it in the namespace of its caller's thread, which
// has to be the same.
func Open() (*Kernel, error) {
	s, err := openSocket(unix.NETLINK_ROUTE, answerLimit)
	if err != nil {
		return nil, err
	}
	return &Kernel{route: s, IsENI: udevCounts}, nil
}

// Close closes the socket.
func (k *Kernel) Close() { k.route.close() }

// Look reads what the kernel has, with one request each for links, addresses,
// rules and routes. scope is told the links and says which routes are read; nil:
// those of all tables.
func (k *Kernel) Look(scope func([]plan.Link) plan.Scope) (plan.State, error) {
	const family = unix.AF_INET
	var s plan.State
	var err error
	if s.Links, err = k.Links(); err != nil {
		return plan.State{}, err
	}
	if s.Addrs, err = k.addrs(family); err != nil {
		return plan.State{}, err
	}
	if s.Rules, err = k.rules(family); err != nil {
		return plan.State{}, err
	}
	k.mu.Lock()
	k.looked = slices.Clone(s.Rules)
	k.mu.Unlock()
	var wanted *plan.Scope
	if scope != nil {
		of := scope(s.Links)
		wanted = &of
	}
	if s.Routes, err = k.routes(family, wanted); err != nil {
		return plan.State{}, err
	}
	return s, nil
}

// Source is the address that the kernel would send from to another one; not valid
// if there is no way. The kernel looks for the way by all rules and tables; a UDP
// socket that is connected has sent nothing.
func (k *Kernel) Source(to netip.Addr) netip.Addr {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 80)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if from.IsUnspecified() {
		return netip.Addr{} // there is a way, but no address to send from
	}
	return from
}

// before calls the test's seam.
func (k *Kernel) before(request string) error {
	if k.Before == nil {
		return nil
	}
	return k.Before(request)
}
