package memory

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ec2net/iprule"
	"ec2net/plan"
)

// addr is an address. The second one in a network on an interface is secondary: it
// brings no route, and goes together with the first.
type addr struct {
	plan.Addr
	secondary bool
}

func (k *Kernel) addrsOf(link int) []addr {
	var found []addr
	for _, a := range k.addrs {
		if a.Link == link {
			found = append(found, a)
		}
	}
	return found
}

func (a addr) sameNetwork(o addr) bool {
	return a.Link == o.Link && a.Prefix.Masked() == o.Prefix.Masked()
}

func (k *Kernel) addAddr(p plan.Addr) error {
	if _, ok := k.at(p.Link); !ok {
		return unix.ENODEV
	}
	a := addr{Addr: p}
	behind := 0 // where a primary address goes: behind the others of its interface
	for i, o := range k.addrs {
		if o.Addr == p {
			return unix.EEXIST
		}
		a.secondary = a.secondary || o.sameNetwork(a)
		if o.Link == p.Link && !o.secondary {
			behind = i + 1
		}
	}
	if a.secondary {
		k.addrs = append(k.addrs, a)
		return nil
	}
	k.addrs = slices.Insert(k.addrs, behind, a)
	k.connect(a)
	return nil
}

// connect adds the route to the network of an address: fib_add_ifaddr of
// net/ipv4/fib_frontend.c.
func (k *Kernel) connect(a addr) {
	l, _ := k.at(a.Link)
	if l.Up && !l.Loopback && !a.secondary && !a.Prefix.IsSingleIP() {
		_ = k.insert(connected(a)) // it may exist already
	}
}

func connected(a addr) plan.Route {
	return plan.Route{Table: iprule.MainTable, Link: a.Link, Dst: a.Prefix.Masked(), Source: a.Prefix.Addr(),
		Protocol: unix.RTPROT_KERNEL, Scope: unix.RT_SCOPE_LINK}
}

func (k *Kernel) delAddr(p plan.Addr) error {
	i := slices.IndexFunc(k.addrs, func(a addr) bool { return a.Addr == p })
	if i < 0 {
		return unix.EADDRNOTAVAIL
	}
	first := k.addrs[i]
	gone := []addr{first}
	if !first.secondary {
		for _, o := range k.addrsOf(p.Link) {
			if o.secondary && o.sameNetwork(first) {
				gone = append(gone, o)
			}
		}
	}
	for _, a := range gone {
		k.addrs = slices.DeleteFunc(k.addrs, func(o addr) bool { return o.Addr == a.Addr })
		k.disconnect(a)
	}
	return nil
}

// disconnect deletes the routes that go with an address: fib_del_ifaddr and
// fib_inetaddr_event of net/ipv4/fib_frontend.c.
func (k *Kernel) disconnect(a addr) {
	// The kernel deletes its own route without naming a metric, so it may hit one that
	// was moved.
	own := slices.IndexFunc(k.routes, func(r plan.Route) bool {
		r.Metric = 0
		return r == connected(a)
	})
	if own >= 0 && !a.secondary {
		k.routes = slices.Delete(k.routes, own, own+1)
	}
	last := len(k.addrsOf(a.Link)) == 0
	k.routes = slices.DeleteFunc(k.routes, func(r plan.Route) bool {
		return last && r.Link == a.Link ||
			// The kernel looks at the source only in main.
			r.Table == iprule.MainTable && r.Source == a.Prefix.Addr() && !k.local(r.Source)
	})
}

// local reports whether an address is one of the machine's.
func (k *Kernel) local(a netip.Addr) bool {
	return slices.ContainsFunc(k.addrs, func(h addr) bool {
		l, _ := k.at(h.Link)
		return h.Prefix.Addr() == a || l.Loopback && l.Up && h.Prefix.Contains(a)
	})
}
