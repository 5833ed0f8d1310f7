package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Main is what the main table should have: the primary's routes come before those of
// the other ENIs to the same destination.
//
// A client may give the primary's routes a metric above those of another ENI: dhcpcd's
// is 1000 and the index of the interface. It may also be the metric of that ENI, whose
// client then deletes the primary's route for its own. So while another ENI is here,
// main has a copy of the primary's routes with the primary's own number, BASE.
//
// dhcpcd looks for routes by the interface's metric, not the route's, and deletes the
// first that it finds: the copy, if that were alone. So there is a decoy before it,
// the same route for a type of service that nobody uses. dhcpcd finds that one, and
// deletes nothing: no route without a type of service has the decoy's metric.
type Main struct {
	// Primary is the primary's interface; its Index is 0 if nobody knows it.
	Primary Link
	// Copies are the copies of its routes, each behind its decoy.
	Copies []Route
	// First are the lowest metrics that the primary has to a destination, or may get.
	First map[netip.Prefix]int
	// Others are the other ENIs that are here, and have a number.
	Others []Other
}

// Other is an ENI other than the primary.
type Other struct {
	Name   string
	Link   Link
	Number int
}

// wantMain says what main should have. A copy without its original stays: another
// client may have deleted that, and the kernel drops the copy with the address that
// it has as its source. While the primary has no default route, there is room for the
// one that it will get, which may have any metric.
func (m *Machine) wantMain(targets []Target) Main {
	mac := m.Primary()
	primary, known := find(m.ENILinks(), func(l Link) bool { return l.MAC == mac })
	if !known {
		return Main{}
	}
	w := Main{Primary: primary, First: make(map[netip.Prefix]int), Others: m.others(mac)}
	copied := m.leftUp() || slices.ContainsFunc(m.Members(), func(l Link) bool { return l.MAC != mac })
	var originals, alone []Route
	for _, r := range m.mainBy(primary) {
		if r.isOriginal() && w.lowers(r) {
			originals = append(originals, r)
		}
	}
	for _, r := range m.mainBy(primary) {
		if _, there := w.First[r.Dst]; r.isCopy() && !there {
			alone = append(alone, r)
		}
	}
	addrs := m.addrsBy(targets)
	for _, r := range originals {
		if copied && r.Metric == w.First[r.Dst] {
			w.have(m.copiesOf(r, addrs))
		}
	}
	w.have(alone)
	if !m.hasDefault(mac) {
		w.First[everywhere] = 2*m.Numbers.Base - 1
	}
	return w
}

// have adds copies, which come before what the primary has else.
func (w *Main) have(copies []Route) {
	w.Copies = append(w.Copies, copies...)
	for _, c := range copies {
		if c.always() {
			w.lowers(c)
		}
	}
}

// lowers notes the metric of a route of the primary's. It reports whether the route
// comes before those that were noted.
func (w *Main) lowers(r Route) bool {
	first, there := w.First[r.Dst]
	if there && first <= r.Metric {
		return false
	}
	w.First[r.Dst] = r.Metric
	return true
}

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// others are the ENIs other than the primary that are here, that ec2net may touch, and
// whose number is known.
func (m *Machine) others(primary facts.MAC) []Other {
	ours, _ := m.MACs()
	var others []Other
	for _, k := range m.Known {
		l, here := m.State.LinkNamed(k.Name)
		// The primary may have the name of one that was.
		if !here || k.Left != "" || l.MAC == primary || !slices.Contains(ours, l.MAC) {
			continue
		}
		e, known := k.FactsOf(l)
		if !known {
			e, known = m.bare(k, l)
		}
		if known && !e.Primary {
			others = append(others, Other{k.Name, l, e.Number})
		}
	}
	return others
}

// leftUp reports whether an ENI that is left alone is here, and was brought up by
// ec2net: with a metric that the primary's may be above.
func (m *Machine) leftUp() bool {
	return slices.ContainsFunc(m.Known, func(k Known) bool {
		l, here := m.State.LinkNamed(k.Name)
		return here && k.Left != "" && k.Note.Of(l)
	})
}

// mainBy are the routes of main by an interface.
func (m *Machine) mainBy(l Link) []Route {
	return filter(m.State.Routes, func(r Route) bool { return r.Table == iprule.MainTable && r.Link == l.Index })
}

// isCopy reports whether a route of main by the primary is ec2net's copy of another,
// or the decoy before it.
func (r Route) isCopy() bool { return r.Protocol == iprule.Protocol }

// isOriginal reports whether a route of main by the primary may have a copy.
func (r Route) isOriginal() bool { return r.always() && !r.isCopy() }

// addrsBy are the addresses that there are when the targets have theirs.
func (m *Machine) addrsBy(targets []Target) []Addr {
	s := m.State
	for _, t := range targets {
		for _, c := range diffAddrs(m.State, t) {
			s.Apply(c)
		}
	}
	return s.Addrs
}

// decoyTOS is a DSCP that no standard names. Older kernels look at three of its bits
// only, so that no packet meets it; newer ones let those packets meet it that have it.
const decoyTOS = 0xfc

// copiesOf are the decoy and the copy that a route of the primary's should have while
// another ENI is here.
func (m *Machine) copiesOf(original Route, addrs []Addr) []Route {
	if original.Metric <= m.Numbers.Base || !isCopied(original) || !m.passesENIs(original) {
		return nil
	}
	c := original
	c.Metric, c.Protocol = m.Numbers.Base, iprule.Protocol
	if !c.Source.IsValid() {
		c.Source = sourceFor(c, addrs)
	}
	if !c.Source.IsValid() {
		return nil
	}
	decoy := c
	decoy.Metric, decoy.TOS = c.Metric-1, decoyTOS
	return []Route{decoy, c}
}

// isCopied reports whether a route of the primary's is one to copy: a default route,
// or the kernel's or a DHCP client's. Others are an administrator's.
func isCopied(r Route) bool {
	return r.Default() || r.Protocol == protocolKernel || r.Protocol == protocolDHCP || r.Protocol == protocolRA
}

// passesENIs reports whether a copy of the primary's route comes before routes of other
// ENIs alone. A VPN's that is before the primary's stays there, and so does that of a
// bridge on top of the primary.
func (m *Machine) passesENIs(original Route) bool {
	primary, _ := m.State.LinkAt(original.Link)
	behind := false // what has the same metric is behind the older one
	for _, r := range m.State.Routes {
		behind = behind || r == original
		if r.Table != iprule.MainTable || r.Dst != original.Dst || !r.always() ||
			r.Metric < m.Numbers.Base || r.Metric > original.Metric || r.Metric == original.Metric && behind {
			continue
		}
		l, ok := m.State.LinkAt(r.Link)
		if !ok || l.Loopback || !m.CanBeENI(l) || l.MAC == primary.MAC && l.Index != primary.Index {
			return false
		}
	}
	return true
}

// sourceFor is the address of the route's interface that the kernel would send from:
// one of the gateway's network first. It is not valid if there is none.
func sourceFor(r Route, addrs []Addr) (source netip.Addr) {
	neighbour := r.Gateway
	if !neighbour.IsValid() {
		neighbour = r.Dst.Addr()
	}
	for _, a := range addrs {
		switch {
		case a.Link != r.Link:
		case a.Prefix.Contains(neighbour):
			return a.Prefix.Addr()
		case !source.IsValid():
			source = a.Prefix.Addr()
		}
	}
	return source
}

// hasDefault reports whether main has a default route through the primary, or through
// what is on top of it.
func (m *Machine) hasDefault(primary facts.MAC) bool {
	return slices.ContainsFunc(m.State.Routes, func(r Route) bool {
		if r.Table != iprule.MainTable || !r.Default() || !r.always() {
			return false
		}
		l, ok := m.State.LinkAt(r.Link)
		return ok && l.MAC == primary
	})
}

// diffMain keeps the primary's routes before those of the other ENIs. The routes that
// come before are there before those that go.
func diffMain(s State, w Want) []Change {
	main := filter(s.Routes, func(r Route) bool { return r.Table == iprule.MainTable })
	copies := filter(main, func(r Route) bool { return r.Link == w.Main.Primary.Index && r.isCopy() })
	missing, extra := difference(copies, w.Main.Copies, itself)
	var changes []Change
	for _, r := range missing {
		taken := slices.ContainsFunc(main, func(o Route) bool { return placeOf(o) == placeOf(r) })
		changes = append(changes, AddRoute{Link: w.Main.Primary, Route: r, Append: taken})
	}
	changes = append(changes, w.behind(main)...)
	for _, r := range extra {
		changes = append(changes, DelRoute{Link: w.Main.Primary, Route: r})
	}
	return changes
}

// behind puts routes of the other ENIs behind those that the primary has to the same
// destination: the kernel's own to a subnet, and those of the DHCP client. On one
// subnet both have the kernel's route with metric 0, of which the older one wins, so
// that the order turns when the primary's lease is bound anew. An administrator's
// routes stay as they are.
func (w Want) behind(main []Route) []Change {
	var changes []Change
	for _, o := range w.Main.Others {
		for _, r := range main {
			first, shared := w.Main.First[r.Dst]
			if r.Link != o.Link.Index || !r.always() || !shared || r.Metric > first {
				continue
			}
			if r.Protocol != protocolKernel && r.Protocol != protocolDHCP && r.Metric != o.Number {
				continue
			}
			metric := o.Number
			if metric <= first { // no copy of the primary's route comes before it
				metric = first + max(1, o.Number-w.Group)
			}
			changes = append(changes, MoveRoute{o.Name, o.Link, r, metric})
		}
	}
	return changes
}
