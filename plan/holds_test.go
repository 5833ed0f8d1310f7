package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/plan"
)

// maxRounds is after how many rounds of changes the plan has to be empty: after a removal
// there is another look.
const maxRounds = 4

// holds makes the changes on the machine's state, and checks what holds for every
// machine: the second plan is empty; State.Apply records what the kernel has then;
// nobody else's things change; a leased address keeps its rule all the time; remembered
// facts take no rule from an address that the interface has; no rule goes before the
// last one has come; no group rule comes while an ENI is out of the group; each rule of an
// ENI that is served has a group rule for its packets, and no other packets see one; and
// main goes on leading through the primary where it did. holds returns the first changes.
func (m *machine) holds(t *testing.T) []plan.Change {
	t.Helper()
	verdicts, want := m.want()
	leases := m.leases(verdicts)
	first := plan.Diff(m.State, want)
	now := m.converge(t, first, leases)
	m.checkGroupRules(t, want, now)
	for _, lost := range m.lost(now) {
		t.Errorf("%s: ec2net removed it, and it is not ec2net's", lost)
	}
	for _, r := range leases {
		if !has(now, r) {
			t.Errorf("there is no rule %s", r)
		}
	}
	for _, r := range m.live() {
		if !has(now, r) {
			t.Errorf("remembered facts have removed the rule %s", r)
		}
	}
	return first
}

// converge makes changes until there are none, and returns what the kernel has then.
func (m *machine) converge(t *testing.T, changes []plan.Change, leases []plan.Rule) plan.State {
	t.Helper()
	after, noted, leads := *m, m.State, m.leads()
	after.State = clone(m.State)
	for round, again := 1, true; again && round <= maxRounds; round++ {
		m.checkOrder(t, changes)
		again = false
		for _, c := range changes {
			if err := apply(&after.State, c); err != nil {
				t.Errorf("%s: %v", text(c), err)
			}
			noted.Apply(c)
			m.checkStep(t, c, after.State, leases)
			checkLeads(t, c, after.State, leads)
			again = again || c.Removes()
		}
		_, want := after.want()
		changes = plan.Diff(after.State, want)
	}
	for _, c := range changes {
		t.Errorf("in the second plan: %s", text(c))
	}
	if s := after.State; !same(noted.Links, s.Links) || !same(noted.Addrs, s.Addrs) || !same(noted.Rules, s.Rules) || !same(noted.Routes, s.Routes) {
		t.Errorf("Apply has recorded\n%+v\nwant\n%+v", noted, s)
	}
	return after.State
}

// checkOrder checks that no rule goes before the last one has come.
func (m *machine) checkOrder(t *testing.T, changes []plan.Change) {
	t.Helper()
	deleted := false
	for _, c := range changes {
		switch c.(type) {
		case plan.DelRule:
			deleted = true
		case plan.AddRule:
			if deleted {
				t.Errorf("%s: comes after a rule was deleted", text(c))
			}
		}
	}
}

// checkStep checks what holds after each change.
func (m *machine) checkStep(t *testing.T, c plan.Change, now plan.State, leases []plan.Rule) {
	t.Helper()
	for _, r := range leases {
		if has(m.State, r) && !has(now, r) {
			t.Errorf("%s: deletes the rule of a leased address", text(c))
		}
	}
	if add, ok := c.(plan.AddRule); ok && add.ENI == "" {
		for _, name := range m.ungrouped(now) {
			t.Errorf("%s: %s is not in the group", text(c), name)
		}
	}
	if off, ok := c.(plan.DisableIPv6); ok {
		k, _ := m.Of(off.Link.Name)
		if off.Link.MAC == m.Primary() || !k.Note.Of(off.Link) || k.Left != "" {
			t.Errorf("%s: the primary, or an interface that ec2net has not brought up", text(c))
		}
	}
}

// leads returns the interface through which main leads to each destination, if that is
// the primary's or cannot be an ENI's, and if it would be the same without the routes
// that the kernel and the DHCP clients have made for the other known ENIs.
func (m *machine) leads() map[netip.Prefix]int {
	ours, _ := m.MACs()
	leads := make(map[netip.Prefix]int)
	for _, r := range m.State.Routes {
		now := best(m.State, r.Dst, func(plan.Route) bool { return true })
		without := best(m.State, r.Dst, func(r plan.Route) bool {
			l, _ := m.State.LinkAt(r.Link)
			client := slices.Contains(ours, l.MAC) && l.MAC != m.Primary() && (r.Protocol == 2 || r.Protocol == 16)
			return r.Protocol != iprule.Protocol && !client
		})
		l, there := m.State.LinkAt(now.Link)
		copied := now.Protocol == iprule.Protocol
		if !there || l.MAC != m.Primary() && m.CanBeENI(l) || copied && now.Metric != m.Numbers.Base {
			continue
		}
		if without.Link == l.Index || without.Link == 0 && copied {
			leads[r.Dst] = l.Index
		}
	}
	return leads
}

// checkLeads checks that main leads through the same interfaces as before.
func checkLeads(t *testing.T, c plan.Change, now plan.State, leads map[netip.Prefix]int) {
	t.Helper()
	for dst, link := range leads {
		if r := best(now, dst, func(plan.Route) bool { return true }); r.Link != link {
			t.Errorf("%s: main leads to %v through the interface %d, not %d", text(c), dst, r.Link, link)
		}
	}
}

// best returns the first of some of main's routes to a destination.
func best(s plan.State, dst netip.Prefix, some func(plan.Route) bool) (found plan.Route) {
	for _, r := range s.Routes {
		if r.Table == iprule.MainTable && r.Dst == dst && r.TOS == 0 && some(r) && (found.Link == 0 || r.Metric < found.Metric) {
			found = r
		}
	}
	return found
}

// leases returns the rules of the leased addresses, except where a template has a rule
// of its own shape for one.
func (m *machine) leases(verdicts []plan.Verdict) []plan.Rule {
	var rules []plan.Rule
	for _, v := range verdicts {
		templated := slices.ContainsFunc(m.templates[v.Name], func(r iprule.Rule) bool { return r.From.Addr() == v.Lease })
		if v.Do == plan.Serve && v.Lease.IsValid() && v.Facts.Routed && !templated {
			rules = append(rules, ruleFrom(v.Lease, v.Facts))
		}
	}
	return rules
}

func ruleFrom(a netip.Addr, e facts.ENI) plan.Rule {
	return plan.Rule{Rule: iprule.Rule{Priority: e.Priority(), From: netip.PrefixFrom(a, a.BitLen()), Table: e.Number,
		Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}}
}

// live returns the rules that remembered facts must not remove: of addresses that the
// interface has, for ENIs without fresh facts that keep their number and whose lease has
// not ended; but not of an address that has moved, or that fresh facts list.
func (m *machine) live() []plan.Rule {
	var rules []plan.Rule
	for _, a := range m.State.Addrs {
		l, _ := m.State.LinkAt(a.Link)
		k, _ := m.Of(l.Name)
		e, known := k.FactsOf(l)
		addr := a.Prefix.Addr()
		ended := k.Lease.Ended && k.Lease.MAC == l.MAC && k.Lease.Index == l.Index
		moved := slices.ContainsFunc(m.Moved, func(v plan.Moved) bool { return v.Addr == addr })
		answered := slices.ContainsFunc(m.Known, func(k plan.Known) bool { return k.Fresh && slices.Contains(k.Facts.IPv4, addr) })
		shared := slices.ContainsFunc(m.Known, func(o plan.Known) bool { return o.Name != k.Name && slices.Contains(o.Numbers(m.Numbers), e.Number) })
		r := ruleFrom(addr, e)
		if known && e.Routed && (!e.Primary || m.othersUp()) && !k.Fresh && !k.Going && (k.Left == "" || m.handsOff(k)) && !ended && !moved && !answered && !shared && has(m.State, r) && !m.plain[k.Name] {
			rules = append(rules, r)
		}
	}
	return rules
}

// checkGroupRules checks, unless the group rules wait, that each rule of an ENI that is served
// has a group rule for the same packets, and that each group rule is for packets of an ENI.
func (m *machine) checkGroupRules(t *testing.T, want plan.Want, now plan.State) {
	t.Helper()
	isFor := func(g, r plan.Rule) bool {
		same := g.To == r.To && g.Mark == r.Mark && g.MarkMask == r.MarkMask && g.IIF == r.IIF && g.OIF == r.OIF
		return same && (g.From == r.From || g.From.IsValid() && g.From.Bits() <= r.From.Bits() && g.From.Contains(r.From.Addr()))
	}
	var group, ofENIs []plan.Rule
	for _, r := range now.Rules {
		switch {
		case m.isGroup(r):
			group = append(group, r)
		case isOfENI(r):
			ofENIs = append(ofENIs, r)
		}
	}
	if !want.Complete {
		return
	}
	for _, target := range want.Targets {
		for _, r := range target.Rules {
			rule := plan.Rule{Rule: r}
			if !slices.ContainsFunc(group, func(g plan.Rule) bool { return isFor(g, rule) }) {
				t.Errorf("there is no group rule for %s", r)
			}
		}
	}
	for _, g := range group {
		if !slices.ContainsFunc(ofENIs, func(r plan.Rule) bool { return isFor(g, r) }) {
			t.Errorf("%s: is for packets of no ENI", g)
		}
	}
}

// isGroup reports whether a rule is a group rule.
func (m *machine) isGroup(r plan.Rule) bool {
	before := r.Priority == m.Numbers.Base-1 || r.Priority == facts.PrimaryPriority-1
	return before && r.Table == iprule.MainTable && r.SuppressGroup == m.Numbers.Base
}

// isOfENI reports whether a rule has the priority and table of some ENI.
func isOfENI(r plan.Rule) bool {
	return r.Priority == r.Table || r.Priority == facts.PrimaryPriority
}

// othersUp reports whether an ENI other than the primary is surely up.
func (m *machine) othersUp() bool {
	return slices.ContainsFunc(m.State.Links, func(l plan.Link) bool {
		k, _ := m.Of(l.Name)
		noted := k.Note.MAC == l.MAC && k.Note.Index == l.Index
		return l.MAC != m.Primary() && k.Left == "" && !k.Going && (k.Coming || l.Up && noted && !k.Lease.Ended)
	})
}

// ungrouped returns the ENIs that could send and are not in the group.
func (m *machine) ungrouped(s plan.State) (names []string) {
	for _, l := range s.Links {
		sends := slices.ContainsFunc(s.Addrs, func(a plan.Addr) bool { return a.Link == l.Index })
		if l.Device && !l.Loopback && sends && l.Group != m.Numbers.Base {
			names = append(names, l.Name)
		}
	}
	return names
}

// same reports whether two lists have the same elements, in any order.
func same[T comparable](a, b []T) bool {
	count := make(map[T]int)
	for _, one := range a {
		count[one]++
	}
	for _, one := range b {
		count[one]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func has(s plan.State, r plan.Rule) bool { return slices.Contains(s.Rules, r) }

func clone(s plan.State) plan.State {
	return plan.State{Links: slices.Clone(s.Links), Addrs: slices.Clone(s.Addrs), Rules: slices.Clone(s.Rules), Routes: slices.Clone(s.Routes)}
}

// apply makes a change as the kernel does. To add a thing that exists is no error.
func apply(s *plan.State, c plan.Change) error {
	switch c := c.(type) {
	case plan.AddRule:
		s.Rules = add(s.Rules, plan.Rule{Rule: c.Rule})
	case plan.DelRule:
		return del(&s.Rules, c.Rule)
	case plan.AddAddr:
		s.Addrs = add(s.Addrs, plan.Addr{Link: c.Link.Index, Prefix: c.Addr})
	case plan.DelAddr:
		return del(&s.Addrs, plan.Addr{Link: c.Link.Index, Prefix: c.Addr})
	case plan.SetGroup:
		i := slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Index == c.Link.Index })
		s.Links[i].Group = c.Group
	case plan.SetLoose:
		i := slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Index == c.Link.Index })
		s.Links[i].Strict = false
	case plan.DisableIPv6:
		i := slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Index == c.Link.Index })
		s.Links[i].NoIPv6 = true
	case plan.AddRoute:
		if l, ok := s.LinkAt(c.Route.Link); c.Route.Kind == iproute.Unicast && (!ok || !l.Up) {
			return fmt.Errorf("the interface is not up")
		}
		taken := func(r plan.Route) bool {
			return r.Table == c.Route.Table && r.Dst == c.Route.Dst && r.TOS == c.Route.TOS && r.Metric == c.Route.Metric
		}
		if c.Append || !slices.ContainsFunc(s.Routes, taken) {
			s.Routes = add(s.Routes, c.Route)
		}
	case plan.DelRoute:
		return del(&s.Routes, c.Route)
	case plan.MoveRoute:
		to := c.Route
		to.Metric = c.Metric
		s.Routes = add(s.Routes, to)
		return del(&s.Routes, c.Route)
	default:
		return fmt.Errorf("%T is no change of the kernel's state", c)
	}
	return nil
}

func add[T comparable](all []T, one T) []T {
	if slices.Contains(all, one) {
		return all
	}
	return append(all, one)
}

func del[T comparable](all *[]T, one T) error {
	i := slices.Index(*all, one)
	if i < 0 {
		return fmt.Errorf("there is none")
	}
	*all = slices.Delete(*all, i, i+1)
	return nil
}

// lost returns the rules, addresses and routes that are gone and that ec2net must not
// remove. By ARCHITECTURE.md it may remove a rule with the priority and table of an ENI;
// an address that IMDS once listed; in the primary's own table a route through the primary;
// in an ENI's table a copy, and a route to docker's bridge; and in main a copy through the
// primary, and a route through another ENI that has another metric now.
func (m *machine) lost(now plan.State) (lost []string) {
	for _, r := range m.State.Rules {
		if !m.isGroup(r) && !(isOfENI(r) && m.isNumber(r.Table)) && !has(now, r) {
			lost = append(lost, "rule "+r.String())
		}
	}
	for _, a := range m.State.Addrs {
		if !slices.Contains(now.Addrs, a) && !m.given(a) {
			lost = append(lost, "address "+a.Prefix.String())
		}
	}
	for _, r := range m.State.Routes {
		if !slices.Contains(now.Routes, r) && !m.ownRoute(r, now) {
			lost = append(lost, fmt.Sprintf("route %+v", r))
		}
	}
	return lost
}

func (m *machine) isNumber(n int) bool {
	primary, _ := m.PrimaryLink()
	if k, _ := m.Of(primary.Name); k.Ours && k.Left == "" && m.Numbers.Primary && n == m.Numbers.Base {
		return true // whatever its name
	}
	return slices.ContainsFunc(m.Known, func(k plan.Known) bool {
		e, err := facts.Bare(k.Name, facts.MAC{}, m.Numbers)
		return !m.handsOff(k) && (k.Facts.Number == n || k.Note.Number == n || err == nil && e.Number == n)
	})
}

// handsOff reports whether ec2net leaves everything of an interface as it is. It does not
// if the interface has a master now, or if the device is gone that ec2net has brought up.
func (m *machine) handsOff(k plan.Known) bool {
	l, _ := m.State.LinkNamed(k.Name)
	return k.Left != "" && !k.Port && (k.Note == (plan.Note{}) || k.Note.Of(l))
}

// given reports whether IMDS has listed an address for the ENI that has it.
func (m *machine) given(a plan.Addr) bool {
	l, _ := m.State.LinkAt(a.Link)
	k, _ := m.Of(l.Name)
	return !m.handsOff(k) && k.Facts.MAC == l.MAC && (slices.Contains(k.Facts.IPv4, a.Prefix.Addr()) || slices.Contains(k.Had, a.Prefix.Addr()))
}

// leftBehind reports whether a table is that of an ENI that was brought up since boot, and
// whose device is gone or is being taken down.
func (m *machine) leftBehind(table int) bool {
	return slices.ContainsFunc(m.Known, func(k plan.Known) bool {
		l, _ := m.State.LinkNamed(k.Name)
		return (k.Left == "" || l.Index == 0) && k.Note.Number == table && (k.Going || l.Index == 0 || !k.Note.Of(l))
	})
}

func (m *machine) ownRoute(r plan.Route, now plan.State) bool {
	l, _ := m.State.LinkAt(r.Link)
	switch {
	case m.leftBehind(r.Table):
		return true
	case r.Table != iprule.MainTable:
		copied := r.Protocol == iprule.Protocol
		return m.isNumber(r.Table) && (copied || l.Name == plan.Bridge && !r.Gateway.IsValid() || l.MAC == m.Primary())
	case l.MAC == m.Primary():
		return r.Protocol == iprule.Protocol
	}
	return slices.ContainsFunc(now.Routes, func(o plan.Route) bool {
		moved := o.Metric > r.Metric || r.Metric >= 2*m.Numbers.Base && o.Metric < r.Metric // or back
		o.Metric = r.Metric
		return moved && o == r
	})
}
