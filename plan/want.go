package plan

import (
	"net/netip"
	"slices"

	"ec2net/facts"
	"ec2net/iprule"
)

// Want is what the machine should have.
type Want struct {
	// Group is the interface group of all ENIs, Members are the interfaces that belong
	// in it.
	Group   int
	Members []Link
	// Complete says that every ENI is in the group, or is about to be: the group rules
	// need that. Foreign are the ENIs that somebody else keeps out.
	Complete bool
	Foreign  []Link
	// Targets are the interfaces that ec2net serves.
	Targets []Target
	// Released are the interfaces that ec2net does not serve, and that should lose addresses:
	// all of ec2net's, if they have got a master; else those that IMDS no longer lists.
	Released []Target
	// NoIPv6 are the interfaces that should have no IPv6.
	NoIPv6 []Link
	// Clear are the numbers that should have no rule, and perhaps no route.
	Clear []Claim
	// Moved are the rules that still send a moved address to the table of its former
	// ENI.
	Moved []MovedRule
	// Main is what main should have.
	Main Main
	// Subnets are the subnets of the ENIs, by number.
	Subnets map[int]netip.Prefix
}

// Claim is a number that an interface has or had.
type Claim struct {
	Name   string
	Number int
	// Own restricts the claim to rules with ec2net's protocol.
	Own bool
	// Table says that no route should be left in the table.
	Table bool
}

// MovedRule is a rule of an address that belongs to another ENI now.
type MovedRule struct {
	Name string // of the interface whose number the rule has
	Rule Rule
}

// Target is what one interface should have.
type Target struct {
	Name     string
	Link     Link
	Number   int
	Priority int // of its rules
	Primary  bool
	// Rules are the rules that the ENI should have. Spare says which others stay.
	Rules []iprule.Rule
	Spare Spare
	// Addrs are the addresses that the interface should have; nil: leave them alone.
	// Lease, the leased address, is the DHCP client's to add and remove. Had are those
	// that ec2net may remove.
	Addrs, Had []netip.Addr
	Lease      netip.Addr
	// Routes are those that its table should have. With Mirror the table should have
	// no others through its interface; without, an administrator's unicast route to the
	// same destination will do in the place of one.
	Routes []Route
	Mirror bool
	// Copies are the copies of main's routes that its table should have besides, unless the
	// table has another route to the same destination; nil: leave those in the table alone.
	Copies []Route
	// Bridge are the routes to docker's bridge that the table should have. NoBridge
	// says that it should have none.
	Bridge   []Route
	NoBridge bool
	// Loose says that the reverse path filter of the interface should be loose.
	Loose bool
}

// RulesOf returns the rendered rules of an ENI.
type RulesOf func(name string) []iprule.Rule

// Want returns what the machine should have by these verdicts, and by the rendered
// rules of the ENIs that have a table.
func (m *Machine) Want(verdicts []Verdict, rules RulesOf) Want {
	w := Want{Group: m.Numbers.Base, Members: m.Members(), Subnets: make(map[int]netip.Prefix)}
	for _, k := range m.Known { // also of those that rest
		w.Subnets[k.Facts.Number] = k.Facts.Subnet
	}
	for _, v := range verdicts {
		switch {
		case v.Do == Serve:
			w.Targets = append(w.Targets, m.target(v, rules))
			w.Subnets[v.Facts.Number] = v.Facts.Subnet
			if v.Subnet.IsValid() {
				w.Subnets[v.Facts.Number] = v.Subnet
			}
		case v.Had != nil && !m.NoAddresses:
			w.Released = append(w.Released, Target{Name: v.Name, Link: v.Link, Lease: v.Lease, Addrs: []netip.Addr{}, Had: v.Had})
		}
	}
	w.Main = m.wantMain(w.Targets)
	main := w.moved(m.State)
	for i, t := range w.Targets {
		if !t.Mirror && len(t.Rules) > 0 && t.Link.Up && w.Subnets[t.Number].IsValid() {
			w.Targets[i].Copies = copies(mirrored(main, t.Link, t.Number, w.Subnets[t.Number]))
		}
	}
	w.NoIPv6 = m.withoutIPv6()
	w.Foreign = m.foreign()
	w.Complete = len(w.Foreign) == 0 && w.Main.Primary.Index != 0
	w.Clear = cleared(verdicts)
	w.Moved = m.movedRules(verdicts)
	return w
}

// withoutIPv6 returns the ENIs that ec2net has brought up by a stanza that switches IPv6
// off; those without a lease and those that rest, too.
func (m *Machine) withoutIPv6() []Link {
	var links []Link
	for _, k := range m.Known {
		l, here := m.State.LinkNamed(k.Name)
		if here && k.NoIPv6 && k.Left == "" && !k.Going && k.Note.Of(l) && l.MAC != m.Primary() {
			links = append(links, l)
		}
	}
	return links
}

// foreign returns the ENIs that are not in the group and stay out of it: somebody else
// has put them into another group or configures them, or they are left alone.
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
	t := Target{Name: v.Name, Link: v.Link, Number: e.Number, Priority: e.Priority(), Primary: e.Primary, Spare: v.Spare, Lease: v.Lease, Had: v.Had}
	if e.HasIPv4() && !m.NoAddresses {
		t.Addrs = e.IPv4
	}
	if e.Routed {
		// A script that was rendered earlier may still have the rule of a moved address.
		current := filter(rules(v.Name), func(r iprule.Rule) bool {
			return !r.From.IsSingleIP() || !m.MovedFrom(e.MAC, r.From.Addr())
		})
		t.Rules = withLease(current, e, v.Lease)
		for _, a := range v.Unlisted {
			t.Rules = withLease(t.Rules, e, a)
		}
		if len(v.Unlisted) > 0 {
			t.Rules = append(t.Rules, ruleOf(e, iprule.Rule{Mark: e.Mark(), MarkMask: e.MarkMask}))
		}
	}
	switch {
	case e.Primary:
		t.Mirror = true
		if len(t.Rules) > 0 {
			t.Routes = mirrored(m.State, v.Link, e.Number, netip.Prefix{})
		}
	case len(t.Rules) > 0 && v.Link.Up:
		k, _ := m.Of(v.Name)
		t.Routes, t.Loose = m.tableRoutes(v, k), k.Loose
		t.Bridge, t.NoBridge = m.bridge(e.Number)
	}
	return t
}

// withLease adds the rule of the leased address if it is missing: the leased address
// always has one, whatever IMDS says.
func withLease(rules []iprule.Rule, e facts.ENI, lease netip.Addr) []iprule.Rule {
	if !lease.IsValid() || hasRuleFrom(rules, lease) {
		return rules
	}
	return append(slices.Clip(rules), ruleOf(e, iprule.Rule{From: netip.PrefixFrom(lease, lease.BitLen())}))
}

// ruleOf returns the rule that sends what r matches to the table of an ENI.
func ruleOf(e facts.ENI, r iprule.Rule) iprule.Rule {
	r.Priority, r.Table, r.Protocol, r.SuppressPrefixLength, r.SuppressGroup = e.Priority(), e.Number, iprule.Protocol, -1, -1
	return r
}

// hasRuleFrom reports whether one of the rules is for packets from this address.
func hasRuleFrom(rules []iprule.Rule, a netip.Addr) bool {
	return slices.ContainsFunc(rules, func(r iprule.Rule) bool { return r.From.IsSingleIP() && r.From.Addr() == a })
}

// copies marks routes as ec2net's, so that an administrator's in the same table stay.
func copies(routes []Route) []Route {
	marked := make([]Route, len(routes))
	for i, r := range routes {
		marked[i] = r
		marked[i].Protocol = iprule.Protocol
	}
	return marked
}

// mirrored returns main's routes through an ENI as its own table should have them, an
// administrator's and those of DHCP's option 121 too. Of several with one place it takes the
// first, which the kernel uses. It takes a copy in main only if its original is gone, and
// never a decoy.
//
// Routes without a gateway come first, since the kernel adds a route by a gateway only if
// another route leads to the gateway. In main it keeps a route even if that other route has
// gone since: such a route gets the flag onlink. The table has a route to subnet anyway.
func mirrored(s State, l Link, table int, subnet netip.Prefix) []Route {
	main := s.mainBy(l)
	var routes []Route
	seen := make(map[place]bool)
	for _, r := range main {
		original := func(o Route) bool { return o.Dst == r.Dst && o.isOriginal() }
		if r.isCopy() && (!r.always() || slices.ContainsFunc(main, original)) {
			continue
		}
		if !seen[placeOf(r)] {
			seen[placeOf(r)] = true
			r.Table, r.Protocol = table, protocolBoot
			routes = append(routes, r)
		}
	}
	slices.SortStableFunc(routes, func(a, b Route) int {
		switch {
		case a.Gateway.IsValid() == b.Gateway.IsValid():
			return 0
		case b.Gateway.IsValid():
			return -1
		}
		return 1
	})
	onLink(routes, l, subnet)
	return routes
}

// onLink gives the flag onlink to each route by a gateway that is not in subnet, and to which
// none of the routes leads.
func onLink(routes []Route, l Link, subnet netip.Prefix) {
	reached := make(map[netip.Addr]bool)
	for i, r := range routes {
		if _, seen := reached[r.Gateway]; !seen {
			reached[r.Gateway] = subnet.Contains(r.Gateway) || slices.ContainsFunc(routes, func(o Route) bool {
				return !o.Gateway.IsValid() && o.Scope >= scopeLink && o.Dst.Contains(r.Gateway)
			})
		}
		if r.Gateway.Is4() && !reached[r.Gateway] {
			more, _ := extraText(r.Extra, l)
			routes[i].OnLink = r.OnLink || !namesHops(more)
		}
	}
}

// bridge returns the routes to docker's bridge that a table should have, or reports that
// it should have none.
func (m *Machine) bridge(table int) (routes []Route, none bool) {
	l, there := m.State.LinkNamed(Bridge)
	if !there || m.Docker != DockerUp {
		return nil, m.Docker == DockerDown
	}
	for _, r := range m.State.Routes {
		// A route with a gateway, a container's address, is an administrator's.
		if r.Table == iprule.MainTable && r.Link == l.Index && r.always() && !r.Default() && !r.Gateway.IsValid() {
			// Copy only where it leads: the route of a bridge without carrier has flags
			// that the kernel does not accept for a new route.
			routes = append(routes, Route{Table: table, Link: l.Index, Dst: r.Dst, Scope: r.Scope, Protocol: protocolBoot})
		}
	}
	return routes, false
}

// cleared returns the numbers that should have no rule: those of interfaces to clear,
// unless another interface has the number now.
func cleared(verdicts []Verdict) []Claim {
	var claims []Claim
	var taken []int
	for _, v := range verdicts {
		if v.Do != Clear {
			taken = append(append(taken, v.Numbers...), v.Facts.Number)
			continue
		}
		for _, n := range v.Numbers {
			claims = append(claims, Claim{v.Name, n, v.Old, n == v.Table})
		}
	}
	return filter(claims, func(c Claim) bool { return !slices.Contains(taken, c.Number) })
}

// Freed returns the numbers of an interface at which nothing should be left.
func (m *Machine) Freed(name string) []int {
	var numbers []int
	for _, c := range cleared(m.Judge()) {
		if c.Name == name {
			numbers = append(numbers, c.Number)
		}
	}
	return numbers
}

// movedRules returns the rules of moved addresses at the number of their former ENI. An
// ENI that is left alone keeps its rules, and any ENI that of its leased address.
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

// takenFrom reports whether an address belongs to another ENI now: EC2 has moved it, or
// fresh facts list it as new for another ENI. In that case the facts of the former ENI
// may never have listed it: ec2net may have been killed before it wrote them.
func (m *Machine) takenFrom(mac facts.MAC, a netip.Addr) bool {
	return m.MovedFrom(mac, a) || slices.ContainsFunc(m.Known, func(k Known) bool { return k.Facts.MAC != mac && k.isNew(a) })
}

// groupRule returns the group rule of a rule of an ENI. For the same packets it takes main's
// answer if that leads to anything but an ENI (docker0, a VPN), and leaves the rest to the
// ENI's rule: it ignores a route to a member of the group, and a default route. It also
// ignores a default route in two halves (0.0.0.0/1 and 128.0.0.0/1), except for the primary,
// whose packets go on leaving by such a VPN. All addresses of a subnet share one group rule.
func (w Want) groupRule(r iprule.Rule) iprule.Rule {
	if within(w.Subnets[r.Table], r.From) {
		r.From = w.Subnets[r.Table]
	}
	before, halves := w.Group, 1
	if r.Priority == facts.PrimaryPriority && r.Table != r.Priority {
		before, halves = facts.PrimaryPriority, 0
	}
	r.Priority, r.Table, r.Protocol = before-1, iprule.MainTable, iprule.Protocol
	r.SuppressPrefixLength, r.SuppressGroup = halves, w.Group
	return r
}

// within reports whether a block of addresses contains another one, p, which is valid.
func within(block, p netip.Prefix) bool {
	return p.IsValid() && block.Bits() <= p.Bits() && block.Contains(p.Addr())
}

// groupRules returns the group rules of rules. have are those that are there. If the subnet
// of an ENI is unknown, a group rule that is there or wanted anyway will do, if its block
// contains the address. A rule at the number of no known ENI may be another program's: its
// group rule stays, and it gets no new one.
func (w Want) groupRules(have, rules []Rule) []Rule {
	var group []Rule
	add := func(g Rule) {
		if !slices.Contains(group, g) {
			group = append(group, g)
		}
	}
	rules = filter(rules, func(r Rule) bool { return !r.Odd() && !r.Is6() })
	for _, r := range rules {
		if w.Subnets[r.Table].IsValid() {
			add(Rule{Rule: w.groupRule(r.Rule)})
		}
	}
	for _, r := range rules {
		subnet, known := w.Subnets[r.Table]
		if subnet.IsValid() {
			continue
		}
		own := Rule{Rule: w.groupRule(r.Rule)}
		there, ok := find(slices.Concat(group, have), func(o Rule) bool {
			wide := own
			wide.From = o.From
			return o == wide && (o == own || within(o.From, own.From))
		})
		switch {
		case ok:
			add(there)
		case known:
			add(own)
		}
	}
	return group
}

// isGroupRule reports whether a rule is a group rule, for whatever packets: that of version
// 0.1 was for all.
func isGroupRule(r Rule, base int) bool {
	return (r.Priority == base-1 || r.Priority == facts.PrimaryPriority-1) && r.Table == iprule.MainTable && r.SuppressGroup == base
}

// Waiting returns the group rules that wait until every ENI is in the group.
func (w Want) Waiting(s State) []Rule {
	if w.Complete {
		return nil
	}
	_, _, rules := w.ruleChanges(s)
	missing, _ := difference(s.Rules, w.groupRules(s.Rules, rules), itself)
	return missing
}
