package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Want is what the machine should have.
type Want struct {
	// Group is the interface group of all ENIs, Members the interfaces that belong
	// into it.
	Group   int
	Members []Link
	// Rule is the group rule, Complete whether every ENI is in the group, which the
	// rule relies on. Foreign are the ENIs that are not, by somebody else's will.
	Rule     iprule.Rule
	Complete bool
	Foreign  []Link
	// Targets are the interfaces that ec2net serves.
	Targets []Target
	// Clear are the numbers of which no rule is to be left.
	Clear []Claim
	// Moved are the rules that lead an address by the table of an ENI that it has
	// moved away from.
	Moved []MovedRule
	// Main is what main should have.
	Main Main
}

// Claim is a number that an interface has or had.
type Claim struct {
	Name   string
	Number int
	// Own says that only rules with ec2net's protocol are meant.
	Own bool
}

// MovedRule is a rule of an address that is another ENI's now.
type MovedRule struct {
	Name string // of the interface whose number the rule has
	Rule Rule
}

// Target is what one interface should have.
type Target struct {
	Name    string
	Link    Link
	Number  int
	Primary bool
	// Rules are the ENI's own, of which Spare says what else stays.
	Rules []iprule.Rule
	Spare Spare
	// Addrs are the addresses of the interface; nil leaves them alone. Lease is the
	// DHCP client's own; Had are those that may be taken away.
	Addrs, Had []netip.Addr
	Lease      netip.Addr
	// Routes are those that its table has to have. With Mirror the table has no
	// others by its interface; else what is there for the same destination serves.
	Routes []Route
	Mirror bool
	// Bridge are the routes to docker's bridge that the table has to have, NoBridge
	// says that it is to have none.
	Bridge   []Route
	NoBridge bool
}

// RulesOf gives the rules that were rendered for an ENI.
type RulesOf func(name string) []iprule.Rule

// Want says what the machine should have by what is judged of each interface, and
// by the rules that were rendered for those with a table.
func (m *Machine) Want(verdicts []Verdict, rules RulesOf) Want {
	w := Want{Group: m.Numbers.Base, Members: m.Members(), Rule: GroupRule(m.Numbers.Base)}
	for _, v := range verdicts {
		if v.Do == Serve {
			w.Targets = append(w.Targets, m.target(v, rules))
		}
	}
	w.Main = m.wantMain(w.Targets)
	w.Foreign = m.foreign()
	w.Complete = len(w.Foreign) == 0 && w.Main.Primary.Index != 0
	w.Clear = cleared(verdicts)
	w.Moved = m.movedRules(verdicts)
	return w
}

// foreign are the ENIs that are not in the group and stay out of it: somebody else
// has put them into another, keeps them from ec2net, or configures them.
func (m *Machine) foreign() []Link {
	ours, left := m.MACs()
	return filter(m.State.Links, func(l Link) bool {
		switch {
		case l.Group == m.Numbers.Base:
			return false
		case slices.Contains(left, l.MAC):
			return true
		case slices.Contains(ours, l.MAC):
			return l.Group != 0
		}
		return l.Device && !l.Loopback && slices.ContainsFunc(m.State.Addrs, func(a Addr) bool { return a.Link == l.Index })
	})
}

func (m *Machine) target(v Verdict, rules RulesOf) Target {
	e := v.Facts
	t := Target{Name: v.Name, Link: v.Link, Number: e.Number, Primary: e.Primary, Spare: v.Spare, Lease: v.Lease, Had: v.Had}
	if e.HasIPv4() {
		t.Addrs = e.IPv4
	}
	if e.Routed {
		// A script of before may still have the rule of an address that has moved.
		current := filter(rules(v.Name), func(r iprule.Rule) bool {
			return !r.From.IsSingleIP() || !m.movedFrom(e.MAC, r.From.Addr())
		})
		t.Rules = withLease(current, e, v.Lease)
	}
	switch {
	case e.Primary:
		t.Mirror = true
		if len(t.Rules) > 0 {
			t.Routes = m.mirrored(v.Link, e.Number)
		}
	case len(t.Rules) > 0 && v.Link.Up:
		if e.HasIPv4() {
			t.Routes = tableRoutes(e, v.Link)
		}
		t.Bridge, t.NoBridge = m.bridge(e.Number)
	}
	return t
}

// withLease adds the rule of the leased address, if no rule is for it: it has one,
// whatever IMDS says.
func withLease(rules []iprule.Rule, e facts.ENI, lease netip.Addr) []iprule.Rule {
	if !lease.IsValid() || hasRuleFrom(rules, lease) {
		return rules
	}
	return append(slices.Clip(rules), iprule.Rule{Priority: e.Number, From: netip.PrefixFrom(lease, lease.BitLen()), Table: e.Number,
		Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1})
}

// hasRuleFrom reports whether one of the rules is for what comes from this address.
func hasRuleFrom(rules []iprule.Rule, a netip.Addr) bool {
	return slices.ContainsFunc(rules, func(r iprule.Rule) bool { return r.From.IsSingleIP() && r.From.Addr() == a })
}

// tableRoutes are the two routes of an ENI's own table that its stanza makes: the
// kernel drops them with the interface's last address, and a lease that comes back
// does not run the stanza again.
func tableRoutes(e facts.ENI, l Link) []Route {
	return []Route{
		{Table: e.Number, Link: l.Index, Dst: e.Subnet, Scope: scopeLink, Protocol: protocolBoot},
		{Table: e.Number, Link: l.Index, Dst: everywhere, Gateway: e.Gateway, Scope: scopeUniverse, Protocol: protocolBoot},
	}
}

// mirrored are the routes that main has by the primary, an administrator's among
// them, as the primary's own table has them. Of several with one place, of which the
// kernel lists the one that it uses first, that one. A copy is one of them only where
// its original is gone, a decoy never.
func (m *Machine) mirrored(l Link, table int) []Route {
	main := m.mainBy(l)
	var routes []Route
	seen := make(map[place]bool)
	for _, r := range main {
		original := func(o Route) bool { return o.Dst == r.Dst && o.isOriginal() }
		if r.isCopy() && (!r.always() || slices.ContainsFunc(main, original)) {
			continue
		}
		if !seen[placeOf(r)] {
			seen[placeOf(r)] = true
			r.Table = table
			routes = append(routes, plain(r))
		}
	}
	return routes
}

// bridge gives the routes to docker's bridge that a table has to have, or says that
// it is to have none.
func (m *Machine) bridge(table int) (routes []Route, none bool) {
	l, there := m.State.LinkNamed(Bridge)
	if !there || m.Docker != DockerUp {
		return nil, m.Docker == DockerDown
	}
	for _, r := range m.State.Routes {
		// One with a gateway, a container's address, is an administrator's.
		if r.Table == iprule.MainTable && r.Link == l.Index && r.always() && !r.Default() && !r.Gateway.IsValid() {
			// Nothing but where it leads: a bridge without carrier has flags that are
			// no input for another table.
			routes = append(routes, Route{Table: table, Link: l.Index, Dst: r.Dst, Scope: r.Scope, Protocol: protocolBoot})
		}
	}
	return routes, false
}

// cleared are the numbers of which nothing is to be left: those of interfaces that
// should have nothing, unless another interface has the number now.
func cleared(verdicts []Verdict) []Claim {
	var claims []Claim
	var taken []int
	for _, v := range verdicts {
		if v.Do != Clear {
			taken = append(append(taken, v.Numbers...), v.Facts.Number)
			continue
		}
		for _, n := range v.Numbers {
			claims = append(claims, Claim{v.Name, n, v.Old})
		}
	}
	return filter(claims, func(c Claim) bool { return !slices.Contains(taken, c.Number) })
}

// Freed are the numbers of an interface of which nothing is to be left.
func (m *Machine) Freed(name string) []int {
	var numbers []int
	for _, c := range cleared(m.Judge()) {
		if c.Name == name {
			numbers = append(numbers, c.Number)
		}
	}
	return numbers
}

// movedRules are the rules of addresses that have moved, at the number of the ENI
// that they have moved away from. An ENI that is left alone keeps them, and the
// address of a lease is the device's own.
func (m *Machine) movedRules(verdicts []Verdict) []MovedRule {
	var rules []MovedRule
	for i, k := range m.Known {
		v := verdicts[i]
		if k.Left != "" || k.Facts.Name == "" {
			continue
		}
		for _, r := range m.State.Rules {
			if !r.Odd() && ofENI(r) && r.Table == k.Facts.Number && r.From.IsSingleIP() && r.From.Addr() != v.Lease &&
				m.takenFrom(k.Facts.MAC, r.From.Addr()) {
				rules = append(rules, MovedRule{k.Name, r})
			}
		}
	}
	return rules
}

// takenFrom reports whether an address is another ENI's now: EC2 has moved it, or IMDS
// gives it to another one for the first time. Then the facts of the first need not
// have had it: ec2net may have been killed before it wrote them.
func (m *Machine) takenFrom(mac facts.MAC, a netip.Addr) bool {
	return m.movedFrom(mac, a) || slices.ContainsFunc(m.Known, func(k Known) bool { return k.Facts.MAC != mac && k.isNew(a) })
}

// GroupRule takes main's answer when it leads to anything that is not an ENI
// (docker0, a VPN), and leaves the rest to the rules of the ENIs: it drops what
// leads to a member of the group, and default routes, also one in two halves.
func GroupRule(base int) iprule.Rule {
	return iprule.Rule{Priority: base - 1, Table: iprule.MainTable, Protocol: iprule.Protocol,
		SuppressPrefixLength: 1, SuppressGroup: base}
}

// isGroupRule reports whether a rule is the group rule, perhaps in another shape.
func isGroupRule(r Rule, base int) bool {
	return r.Priority == base-1 && r.Table == iprule.MainTable && r.SuppressGroup == base
}

// HasGroupRule reports whether the group rule is there, in whichever shape.
func (w Want) HasGroupRule(s State) bool {
	return slices.ContainsFunc(s.Rules, func(r Rule) bool { return isGroupRule(r, w.Group) })
}
