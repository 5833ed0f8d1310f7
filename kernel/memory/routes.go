package memory

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ec2net/iproute"
	"ec2net/plan"
)

// compare orders routes as the kernel lists them: by table, whose last eight bits count
// first, then by destination, then in the order in which the kernel would use them:
// fib_find_alias of net/ipv4/fib_trie.c.
func compare(a, b plan.Route) int {
	return cmp.Or(
		cmp.Compare(a.Table&0xff, b.Table&0xff), cmp.Compare(a.Table, b.Table),
		a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(b.Dst.Bits(), a.Dst.Bits()),
		cmp.Compare(b.TOS, a.TOS), cmp.Compare(a.Metric, b.Metric))
}

// insert adds a route behind those that compare equal, unless it exists.
func (k *Kernel) insert(r plan.Route) error {
	if slices.Contains(k.routes, r) {
		return unix.EEXIST
	}
	i, _ := slices.BinarySearchFunc(k.routes, r, func(o, r plan.Route) int {
		if compare(o, r) <= 0 {
			return -1
		}
		return 1
	})
	k.routes = slices.Insert(k.routes, i, r)
	return nil
}

// addRoute adds a route if it passes the kernel's checks: fib_create_info of
// net/ipv4/fib_semantics.c.
func (k *Kernel) addRoute(r plan.Route, behind bool) error {
	if r.Kind == iproute.Unicast {
		if err := k.usable(r); err != nil {
			return err
		}
	} else if r.Dst != r.Dst.Masked() {
		return unix.EINVAL // the kernel checks nothing else
	}
	if !behind && slices.ContainsFunc(k.routes, func(o plan.Route) bool { return compare(o, r) == 0 }) {
		return unix.EEXIST
	}
	return k.insert(r)
}

func (k *Kernel) usable(r plan.Route) error {
	l, ok := k.at(r.Link)
	if r.Dst != r.Dst.Masked() || r.Gateway.IsValid() && r.Scope >= unix.RT_SCOPE_LINK {
		return unix.EINVAL
	}
	if r.Gateway.IsValid() && !r.OnLink {
		// The gateway has to be in a network of the interface.
		if _, ok := k.best(r.Table, r.Gateway, r.Link); !ok {
			if _, ok := k.lookup(netip.Addr{}, r.Gateway, r.Link); !ok {
				return unix.ENETUNREACH
			}
		}
	}
	if !ok {
		return unix.ENODEV
	}
	if !l.Up {
		return unix.ENETDOWN
	}
	if r.OnLink && k.local(r.Gateway) || r.Source.IsValid() && !k.local(r.Source) {
		return unix.EINVAL
	}
	return nil
}

func (k *Kernel) delRoute(r plan.Route) error {
	i := slices.Index(k.routes, r)
	if i < 0 {
		return unix.ESRCH
	}
	k.routes = slices.Delete(k.routes, i, i+1)
	return nil
}

// find reports whether a route exists, and fails if the kernel would delete another one
// in its place.
func (k *Kernel) find(r plan.Route) (there bool, err error) {
	i := slices.Index(k.routes, r)
	for _, o := range k.routes[:max(i, 0)] {
		if mistaken(r, o) {
			return true, fmt.Errorf("the kernel cannot tell this route from another one to %v with metric %d", o.Dst, o.Metric)
		}
	}
	return i >= 0, nil
}

// mistaken reports whether the kernel would delete the route has when asked to delete the
// route named: a request cannot say that an attribute is absent.
func mistaken(named, has plan.Route) bool {
	always := func(r plan.Route) plan.Route {
		return plan.Route{Kind: r.Kind, Table: r.Table, Link: r.Link, Dst: r.Dst, TOS: r.TOS, Scope: r.Scope}
	}
	return always(has) == always(named) &&
		(named.Protocol == 0 || has.Protocol == named.Protocol) &&
		(named.Metric == 0 || has.Metric == named.Metric) &&
		(!named.Gateway.IsValid() || has.Gateway == named.Gateway) &&
		(!named.Source.IsValid() || has.Source == named.Source) &&
		(named.Extra == "" || has.Extra == named.Extra)
}

func (k *Kernel) moveRoute(c plan.MoveRoute) error {
	to := c.Route
	to.Metric = c.Metric
	err := k.request(c, func() error { return k.addRoute(to, true) })
	if err != nil {
		return err
	}
	return k.request(c, func() error {
		if err := k.delRoute(c.Route); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	})
}

// FlushRoutes deletes all routes of a table through an interface.
func (k *Kernel) FlushRoutes(table int, name string) {
	k.must(name, func(l *plan.Link) {
		k.routes = slices.DeleteFunc(k.routes, func(r plan.Route) bool { return r.Table == table && r.Link == l.Index })
	})
}

// lookup finds the route to an address through rules and tables, for a packet without a
// mark, and without a source address if from is not valid. With a link other than 0 it takes only a route to a network
// of that link.
func (k *Kernel) lookup(from, to netip.Addr, link int) (plan.Route, bool) {
	for _, rule := range k.rules {
		if !k.matches(rule, from, to, link) {
			continue
		}
		r, ok := k.best(rule.Table, to, link)
		if !ok || r.Kind == iproute.Throw || r.Kind == iproute.Unicast && r.Dst.Bits() <= rule.SuppressPrefixLength {
			continue
		}
		if by, _ := k.at(r.Link); rule.SuppressGroup >= 0 && by.Group == rule.SuppressGroup {
			continue
		}
		return r, true
	}
	return plan.Route{}, false
}

// matches reports whether a rule is for such a packet.
func (k *Kernel) matches(rule plan.Rule, from, to netip.Addr, link int) bool {
	return !rule.Odd() && (!rule.From.IsValid() || rule.From.Contains(from)) && (!rule.To.IsValid() || rule.To.Contains(to)) &&
		rule.Mark&rule.MarkMask == 0 && (rule.IIF == "" || rule.IIF == "lo") && (rule.OIF == "" || k.isNamed(link, rule.OIF))
}

func (k *Kernel) isNamed(index int, name string) bool {
	l, ok := k.at(index)
	return ok && l.Name == name
}

// best finds the route of a table to an address, for a packet without a TOS: the one with
// the longest prefix, then the lowest metric, then the oldest.
func (k *Kernel) best(table int, to netip.Addr, link int) (found plan.Route, ok bool) {
	for _, r := range k.routes {
		if r.Table != table || r.TOS != 0 || !r.Dst.Contains(to) || link != 0 && (r.Link != link || r.Scope < unix.RT_SCOPE_LINK) {
			continue
		}
		if !ok || r.Dst.Bits() > found.Dst.Bits() || r.Dst.Bits() == found.Dst.Bits() && r.Metric < found.Metric {
			found, ok = r, true
		}
	}
	return found, ok
}

// sourceOn finds the address of an interface to send from: the one in the gateway's
// network, else the first: inet_select_addr of net/ipv4/devinet.c.
func (k *Kernel) sourceOn(link int, gateway netip.Addr) netip.Addr {
	var first netip.Addr
	for _, a := range k.addrsOf(link) {
		if a.secondary {
			continue
		}
		if !gateway.IsValid() || a.Prefix.Contains(gateway) {
			return a.Prefix.Addr()
		}
		if !first.IsValid() {
			first = a.Prefix.Addr()
		}
	}
	if first.IsValid() {
		return first
	}
	for _, l := range k.links {
		for _, a := range k.addrsOf(l.Index) {
			if !l.Loopback && !a.secondary {
				return a.Prefix.Addr()
			}
		}
	}
	return netip.Addr{}
}
