package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Main is what the main table should have, so that the primary's routes come before
// those of the other ENIs to the same destination.
//
// A DHCP client may give the primary's routes a metric above another ENI's: dhcpcd's is
// 1000 + the index of the interface. It may even give them the metric of that ENI, whose
// client then replaces the primary's route by its own. So while another ENI is attached,
// main has a copy of the primary's routes with the primary's own number, BASE.
//
// dhcpcd looks for routes by the interface's metric, not the route's, and deletes the
// first that it finds, which would be the copy. So a decoy comes before the copy: the
// same route for a type of service that nobody uses. dhcpcd finds the decoy and asks the
// kernel to delete a route with its metric but without a type of service. There is none.
type Main struct {
	// Primary is the primary's interface; its Index is 0 if it is unknown.
	Primary Link
	// Copies are the copies of its routes, each after its decoy.
	Copies []Route
	// First has the lowest metric that the primary has, or may get, for a destination.
	First map[netip.Prefix]int
	// Others are the other ENIs that are attached and have a number.
	Others []Other
}

// Other is an ENI other than the primary.
type Other struct {
	Name   string
	Link   Link
	Number int
}

// wantMain returns what main should have. A copy without its original stays: another
// client may have deleted the original, and when the address goes that is the copy's
// source, the kernel drops the copy. While the primary has no default route, or none to its
// subnet, the other ENIs leave room for its next one, which may have any metric: dhcpcd makes
// none where another ENI's already has that.
func (m *Machine) wantMain(targets []Target) Main {
	mac := m.Primary()
	primary, known := m.PrimaryLink()
	if !known {
		return Main{}
	}
	w := Main{Primary: primary, First: make(map[netip.Prefix]int), Others: m.others(mac)}
	copied := m.leftUp() || slices.ContainsFunc(m.Members(), func(l Link) bool { return l.MAC != mac })
	var originals, alone []Route
	for _, r := range m.State.mainBy(primary) {
		if r.isOriginal() && w.lowers(r) {
			originals = append(originals, r)
		}
	}
	copies := filter(m.State.mainBy(primary), Route.isCopy)
	for _, r := range copies {
		isCopy := func(o Route) bool { return o.Dst == r.Dst && o.always() } // r may be a decoy
		if _, there := w.First[r.Dst]; !there && slices.ContainsFunc(copies, isCopy) {
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
	next := []netip.Prefix{everywhere}
	for _, k := range m.Known {
		if e, known := k.FactsOf(primary); known && e.HasIPv4() {
			next = append(next, e.Subnet)
		}
	}
	for _, dst := range next {
		if !m.hasRoute(mac, dst) {
			w.First[dst] = room(m.Numbers.Base)
		}
	}
	return w
}

// room is the highest metric for which the other ENIs leave room while the primary has no route.
func room(base int) int { return 2*base - 1 }

// have adds copies, which come before the primary's other routes.
func (w *Main) have(copies []Route) {
	w.Copies = append(w.Copies, copies...)
	for _, c := range copies {
		if c.always() {
			w.lowers(c)
		}
	}
}

// lowers records the metric of a route of the primary in First. It reports whether that
// is lower than before.
func (w *Main) lowers(r Route) bool {
	first, there := w.First[r.Dst]
	if there && first <= r.Metric {
		return false
	}
	w.First[r.Dst] = r.Metric
	return true
}

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// others returns the attached ENIs, other than the primary, that ec2net may touch and
// whose number is known.
func (m *Machine) others(primary facts.MAC) []Other {
	ours, _ := m.MACs()
	var others []Other
	for _, k := range m.Known {
		l, here := m.State.LinkNamed(k.Name)
		// The primary may have the former name of another ENI.
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

// leftUp reports whether ec2net has brought up an attached ENI that it leaves alone now:
// its metric may be below the primary's.
func (m *Machine) leftUp() bool {
	return slices.ContainsFunc(m.Known, func(k Known) bool {
		l, here := m.State.LinkNamed(k.Name)
		return here && k.Left != "" && k.Note.Of(l)
	})
}

func (s State) main() []Route {
	return filter(s.Routes, func(r Route) bool { return r.Table == iprule.MainTable })
}

// mainBy returns main's routes through an interface.
func (s State) mainBy(l Link) []Route {
	return filter(s.Routes, func(r Route) bool { return r.Table == iprule.MainTable && r.Link == l.Index })
}

// isCopy reports whether a route of main through the primary is ec2net's: a copy, or a
// decoy.
func (r Route) isCopy() bool { return r.Protocol == iprule.Protocol }

// isOriginal reports whether a route of main through the primary may have a copy.
func (r Route) isOriginal() bool { return r.always() && !r.isCopy() }

// addrsBy returns the addresses of the machine once the targets have theirs.
func (m *Machine) addrsBy(targets []Target) []Addr {
	s := m.State
	for _, t := range targets {
		s.Apply(diffAddrs(m.State, t)...)
	}
	return s.Addrs
}

// decoyTOS is a DSCP that no standard names. Older kernels compare only three bits of a
// packet's, so that none matches; with newer ones a packet matches that has this DSCP.
const decoyTOS = 0xfc

// copiesOf returns the decoy and the copy that a route of the primary should have while
// another ENI is attached.
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

// isCopied reports whether to copy a route of the primary: a default route, or one of
// the kernel or a DHCP client. Others are an administrator's.
func isCopied(r Route) bool {
	return r.Default() || r.Protocol == protocolKernel || r.Protocol == protocolDHCP || r.Protocol == protocolRA
}

// passesENIs reports whether a copy of the primary's route would overtake only routes of
// other ENIs. It must not overtake a VPN's, or that of a bridge on top of the primary.
func (m *Machine) passesENIs(original Route) bool {
	primary, _ := m.State.LinkAt(original.Link)
	behind := false // of two routes with one metric, the older comes first
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

// sourceFor returns the address of the route's interface that the kernel would send
// from: one in the gateway's network, else the first; not valid if there is none.
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

// hasRoute reports whether main has a route to a destination through the primary, or through
// an interface on top of it.
func (m *Machine) hasRoute(primary facts.MAC, dst netip.Prefix) bool {
	return slices.ContainsFunc(m.State.Routes, func(r Route) bool {
		if r.Table != iprule.MainTable || r.Dst != dst || !r.always() {
			return false
		}
		l, ok := m.State.LinkAt(r.Link)
		return ok && l.MAC == primary
	})
}

// diffMain keeps the primary's routes before those of the other ENIs. It adds copies
// before it moves or deletes anything.
func diffMain(s State, w Want) []Change {
	main := s.main()
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

// moved returns a state in which main's routes have the metrics that they should have.
func (w Want) moved(s State) State {
	s.Apply(w.behind(s.main())...)
	return s
}

// behind gives routes of the other ENIs a higher metric than the primary's routes to the
// same destination: the kernel's own to a subnet, and those of the DHCP client. If both
// are in one subnet, both have the kernel's route with metric 0, and the older one wins:
// the order turns when the primary gets a new lease. A route that has left room for the
// primary's goes back once that is there. An administrator's routes stay.
func (w Want) behind(main []Route) []Change {
	var changes []Change
	for _, o := range w.Main.Others {
		behindRoom := room(w.Group) + max(1, o.Number-w.Group)
		for _, r := range main {
			first, shared := w.Main.First[r.Dst]
			away := r.Metric == behindRoom && first < o.Number
			if r.Link != o.Link.Index || !r.always() || !shared || r.Metric > first && !away {
				continue
			}
			if r.Protocol != protocolKernel && r.Protocol != protocolDHCP && r.Metric != o.Number && !away {
				continue
			}
			metric := o.Number
			if metric <= first { // the primary's route has no copy with a lower metric
				metric = first + max(1, o.Number-w.Group)
			}
			changes = append(changes, MoveRoute{o.Name, o.Link, r, metric})
		}
	}
	return changes
}
