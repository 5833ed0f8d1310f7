package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"ec2net/iproute"
)

// lastMetric is that of the route behind all others in a table.
const lastMetric = 65535

// tableRoutes returns the routes of an ENI's own table: those that its stanza makes, in
// the order of the stanza, and those that every ENI's table has. The kernel drops the
// routes by an interface when that is set down or loses its last address, and when it is
// up again nothing runs the stanza.
func (m *Machine) tableRoutes(v Verdict, k Known) []Route {
	var routes []Route
	for _, s := range k.Routes {
		if r, ok := m.resolve(s, v, routes); ok && s.Table == v.Facts.Number {
			routes = append(routes, r)
		}
	}
	e := v.Facts
	if !e.HasIPv4() {
		return routes
	}
	for _, r := range []Route{
		{Table: e.Number, Link: v.Link.Index, Dst: e.Subnet, Scope: scopeLink, Protocol: protocolBoot},
		{Table: e.Number, Link: v.Link.Index, Dst: everywhere, Gateway: e.Gateway, Scope: scopeUniverse, Protocol: protocolBoot},
		// When the interface is unplugged, nothing of it may leave by another one.
		{Kind: iproute.Unreachable, Table: e.Number, Dst: everywhere, Metric: lastMetric, Scope: scopeUniverse, Protocol: protocolBoot},
	} {
		made := func(o Route) bool { return o.Dst == r.Dst && (o.Kind == r.Kind || placeOf(o) == placeOf(r)) }
		if !slices.ContainsFunc(routes, made) {
			routes = append(routes, r)
		}
	}
	return routes
}

// resolve returns a route of an ENI's stanza as the kernel has it. before are the routes
// that come before it. resolve reports false if the kernel would refuse the route now: if
// its interface is not up, its gateway is in no network of that, its source is no address
// of the machine. Without an interface the gateway has to be in the ENI's subnet.
func (m *Machine) resolve(s iproute.Route, v Verdict, before []Route) (Route, bool) {
	r := Route{Kind: s.Kind, Table: s.Table, Dst: s.Dst, Gateway: s.Gateway, Source: s.Source, Metric: s.Metric,
		OnLink: s.OnLink, Protocol: cmp.Or(s.Protocol, protocolBoot), Scope: scopeUniverse}
	if r.Kind != iproute.Unicast {
		return r, true
	}
	l, there := m.State.LinkNamed(s.Dev)
	if s.Dev == "" && v.Facts.HasIPv4() && v.Facts.Subnet.Contains(s.Gateway) {
		l, there = v.Link, true
	}
	if !there || !l.Up {
		return r, false
	}
	r.Link = l.Index
	if !r.Gateway.IsValid() {
		r.Scope = scopeLink
	}
	return r, m.sends(r, v) && m.reaches(r, v, before)
}

// sends reports whether the source of a route is an address that the machine has, or is
// about to have.
func (m *Machine) sends(r Route, v Verdict) bool {
	return !r.Source.IsValid() || slices.Contains(v.Facts.IPv4, r.Source) ||
		slices.ContainsFunc(m.State.Addrs, func(a Addr) bool { return a.Prefix.Addr() == r.Source })
}

// reaches reports whether the gateway of a route is in a network of its interface.
func (m *Machine) reaches(r Route, v Verdict, before []Route) bool {
	if !r.Gateway.IsValid() || r.OnLink || r.Link == v.Link.Index && v.Facts.HasIPv4() && v.Facts.Subnet.Contains(r.Gateway) {
		return true
	}
	return slices.ContainsFunc(before, func(o Route) bool {
		return o.Link == r.Link && !o.Gateway.IsValid() && o.Dst.Contains(r.Gateway)
	}) || slices.ContainsFunc(m.State.Addrs, func(a Addr) bool { return a.Link == r.Link && a.Prefix.Contains(r.Gateway) })
}

// diffTable adds the missing routes to an ENI's own table. It deletes only from a
// mirror, copies of main's routes, and routes to docker's bridge: any other route is an
// administrator's. A route is there if its place is taken, or if an administrator has a
// unicast route to the same destination at a place of his own.
func diffTable(s State, t Target) []Change {
	all := filter(s.Routes, func(r Route) bool { return r.Table == t.Number })
	if t.Mirror {
		return diffMirror(all, t)
	}
	wanted := t.wanted()
	copies := filter(all, func(r Route) bool { return t.isCopy(r, wanted) })
	others := without(all, func(r Route) bool { return t.isCopy(r, wanted) })
	own := filter(others, Route.always)
	var changes []Change
	for _, r := range wanted {
		if l, ok := s.LinkAt(r.Link); (ok || r.Kind != iproute.Unicast) && !isThere(own, wanted, r) {
			changes = append(changes, AddRoute{ENI: t.Name, Link: l, Route: r})
		}
	}
	bridge, ok := s.LinkNamed(Bridge)
	for _, r := range own {
		// A route with a gateway, a container's address, is an administrator's.
		if t.NoBridge && ok && r.Link == bridge.Index && !r.Gateway.IsValid() && !r.Default() {
			changes = append(changes, DelRoute{t.Name, bridge, r})
		}
	}
	if t.Copies == nil {
		return changes
	}
	taken := make(map[netip.Prefix]bool)
	for _, r := range slices.Concat(others, wanted) {
		taken[r.Dst] = true
	}
	return append(changes, t.diffRoutes(copies, without(t.Copies, func(r Route) bool { return taken[r.Dst] }))...)
}

// isCopy reports whether a route of the target's table is a copy of one of main's. One at the
// place of a wanted route is none: it counts as that.
func (t Target) isCopy(r Route, wanted []Route) bool {
	return r.isCopy() && r.Link == t.Link.Index && !slices.ContainsFunc(wanted, func(w Route) bool { return placeOf(w) == placeOf(r) })
}

// wanted returns the routes of the target's table, the first to each destination of
// docker's bridge.
func (t Target) wanted() []Route {
	wanted := slices.Clone(t.Routes)
	for _, r := range t.Bridge {
		if !slices.ContainsFunc(wanted, func(o Route) bool { return o.Dst == r.Dst }) {
			wanted = append(wanted, r)
		}
	}
	return wanted
}

// isThere reports whether a table has a wanted route, or one that will do in its place.
func isThere(own, wanted []Route, r Route) bool {
	return slices.ContainsFunc(own, func(o Route) bool {
		if placeOf(o) == placeOf(r) {
			return true
		}
		return o.Kind == iproute.Unicast && r.Kind == iproute.Unicast && o.Dst == r.Dst &&
			!slices.ContainsFunc(wanted, func(w Route) bool { return placeOf(w) == placeOf(o) })
	})
}

// diffLoose makes the reverse path filter loose where it is strict. 0, none, stays.
func diffLoose(w Want) []Change {
	var changes []Change
	for _, t := range w.Targets {
		if t.Loose && t.Link.Strict {
			changes = append(changes, SetLoose{t.Link})
		}
	}
	return changes
}

// diffCleared empties the tables that ENIs have left behind. It comes after the rules
// that lead there: until then no packet of such an ENI finds another way out.
func diffCleared(s State, w Want) []Change {
	var changes []Change
	for _, r := range s.Routes {
		c, ok := find(w.Clear, func(c Claim) bool { return c.Table && c.Number == r.Table })
		if ok && !w.serves(r.Table) {
			l, _ := s.LinkAt(r.Link)
			changes = append(changes, DelRoute{c.Name, l, r})
		}
	}
	return changes
}
