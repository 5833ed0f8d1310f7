// Package kernel speaks netlink: it reads the network of a network namespace into
// plan's types, applies plan's changes, and watches for changes. No other package of
// the product imports netlink. Package memory below it has the same methods on a kernel
// in memory, for tests.
package kernel

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// Kernel is a connection to the kernel, in the network namespace that it was opened in.
type Kernel struct {
	// Before, if set, is called before each request, with what is asked for ("links",
	// "addresses", "rules", "routes") or with the text of the change. If it fails, the
	// request is not made, and fails with its error.
	Before func(request string) error
	// IsENI reports whether a veth counts as an ENI. Open sets it to ask udev's
	// database.
	IsENI func(plan.Link) bool

	route *socket
	// allFilter is net.ipv4.conf.all.rp_filter of the namespace, open for reading; nil
	// without /proc.
	allFilter *os.File
	// inet6 is the folder /proc/sys/net/ipv6/conf of the namespace; nil without /proc or
	// without IPv6.
	inet6 *os.Root

	mu     sync.Mutex
	looked []plan.Rule // the rules of the last look, without those deleted since
	seen   seenRoutes
}

// Open opens the socket for requests, in the network namespace of the calling thread.
// Some methods open another socket: Watch, Source, Apply of a DropFlows, Look with some
// hundred rules. Call them from a thread in the same namespace.
func Open() (*Kernel, error) {
	s, err := openSocket(unix.NETLINK_ROUTE, answerLimit)
	if err != nil {
		return nil, err
	}
	all, _ := os.Open("/proc/sys/net/ipv4/conf/all/rp_filter")
	inet6, _ := os.OpenRoot("/proc/sys/net/ipv6/conf")
	return &Kernel{route: s, IsENI: udevCounts, allFilter: all, inet6: inet6}, nil
}

// Close closes what Open has opened.
func (k *Kernel) Close() {
	k.route.close()
	k.allFilter.Close()
	if k.inet6 != nil {
		k.inet6.Close()
	}
}

// Look reads what the kernel has, with one request each for links, addresses, rules
// and routes. scope gets the links and says which routes to read; nil: those of all
// tables.
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
	var hops []plan.Route
	if s.Routes, hops, err = k.routes(family, wanted); err != nil {
		return plan.State{}, err
	}
	k.mu.Lock()
	k.seen = seenRoutes{all: s.Routes, hops: hops}
	k.mu.Unlock()
	return s, nil
}

// Source returns the address from which the kernel would send to another one; not valid
// if there is no route. The kernel consults all rules and tables when a UDP socket
// connects, which sends nothing.
func (k *Kernel) Source(to netip.Addr) netip.Addr {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 80)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if from.IsUnspecified() {
		return netip.Addr{} // there is a route, but no address to send from
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
