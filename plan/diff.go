package plan

import (
	"net/netip"
	"slices"

	"ec2net/iprule"
)

// Diff returns the changes that lead from what the kernel has to what it should have.
// It adds before it removes, so that no address lacks its rule in between. It leaves
// other people's rules, routes and addresses alone.
func Diff(s State, w Want) []Change {
	var changes []Change
	changes = append(changes, diffGroup(w)...)
	changes = append(changes, diffLoose(w)...)
	for _, l := range w.NoIPv6 {
		if !l.NoIPv6 {
			changes = append(changes, DisableIPv6{l})
		}
	}
	for _, t := range slices.Concat(w.Targets, w.Released) {
		changes = append(changes, diffAddrs(s, t)...)
	}
	for _, t := range w.Targets {
		changes = append(changes, diffTable(s, t)...)
	}
	changes = append(changes, diffMain(s, w)...)
	changes = append(changes, diffRules(s, w)...)
	return append(changes, diffCleared(s, w)...)
}

// difference compares two lists by the keys of their elements. It returns what to add,
// in the order of want, and what is not wanted, in the order of have; a duplicate is
// not wanted.
func difference[T any, K comparable](have, want []T, key func(T) K) (add, extra []T) {
	there := make(map[K]bool) // of what is wanted
	for _, w := range want {
		there[key(w)] = false
	}
	for _, h := range have {
		if seen, wanted := there[key(h)]; wanted && !seen {
			there[key(h)] = true
			continue
		}
		extra = append(extra, h)
	}
	return filter(want, func(w T) bool { return !there[key(w)] }), extra
}

func itself[T any](t T) T { return t }

func diffGroup(w Want) []Change {
	var changes []Change
	for _, l := range w.Members {
		if l.Group == 0 {
			changes = append(changes, SetGroup{l, w.Group})
		}
	}
	return changes
}

func diffAddrs(s State, t Target) []Change {
	if t.Addrs == nil || t.Link.Index == 0 {
		return nil
	}
	isLease := func(p netip.Prefix) bool { return p.Addr() == t.Lease }
	// A DHCP client gives its address the prefix length of the subnet.
	mayBeLease := func(p netip.Prefix) bool { return !t.Lease.IsValid() && !p.IsSingleIP() }
	var have, want []netip.Prefix
	for _, a := range s.Addrs {
		if a.Link == t.Link.Index {
			have = append(have, a.Prefix)
		}
	}
	for _, a := range t.Addrs {
		// With the length of the subnet, the kernel would delete the address together with
		// the leased one, and add a route for it. A single address avoids both.
		want = append(want, netip.PrefixFrom(a, a.BitLen()))
	}
	missing, extra := difference(without(have, isLease), without(want, isLease), netip.Prefix.Addr)
	var changes []Change
	for _, p := range missing {
		changes = append(changes, AddAddr{t.Link, p})
	}
	for _, p := range extra {
		if slices.Contains(t.Had, p.Addr()) && !slices.Contains(t.Addrs, p.Addr()) && !mayBeLease(p) {
			changes = append(changes, DelAddr{t.Link, p})
		}
	}
	return changes
}

// diffMirror makes a table have the wanted routes, and no others through the ENI. A place
// stays as it is if a route through another interface has it, which is an administrator's.
func diffMirror(own []Route, t Target) []Change {
	taken := make(map[place]bool)
	for _, r := range own {
		if r.Link != t.Link.Index {
			taken[placeOf(r)] = true
		}
	}
	byLink := filter(own, func(r Route) bool { return r.Link == t.Link.Index })
	return t.diffRoutes(byLink, without(t.Routes, func(r Route) bool { return taken[placeOf(r)] }))
}

// diffRoutes replaces routes of the target's table by the wanted ones. Each place holds one
// route: the new one comes before the old one goes.
func (t Target) diffRoutes(have, want []Route) []Change {
	missing, extra := difference(have, want, plain)
	old := make(map[place][]Change)
	for _, r := range extra {
		old[placeOf(r)] = append(old[placeOf(r)], DelRoute{t.Name, t.Link, r})
	}
	var changes []Change
	for _, r := range missing {
		changes = append(changes, AddRoute{t.Name, t.Link, r, len(old[placeOf(r)]) > 0})
		changes = append(changes, old[placeOf(r)]...)
		delete(old, placeOf(r))
	}
	for _, r := range extra {
		changes = append(changes, old[placeOf(r)]...)
		delete(old, placeOf(r))
	}
	return changes
}

// place identifies a route in its table: a second one with the same place can only be
// appended behind the first.
type place struct {
	dst         netip.Prefix
	tos, metric int
}

func placeOf(r Route) place { return place{r.Dst, r.TOS, r.Metric} }

// plain hides who made a route, and the flag onlink: a copy may differ from its original in
// these.
func plain(r Route) Route {
	r.Protocol, r.OnLink = protocolBoot, false
	return r
}

// diffRules adds the group rules before the first rule of an ENI, and deletes them after
// the last.
func diffRules(s State, w Want) []Change {
	add, del, rules := w.ruleChanges(s)
	have := filter(s.Rules, func(r Rule) bool { return isGroupRule(r, w.Group) })
	missing, extra := difference(have, w.groupRules(have, rules), itself)
	var before, after []Change
	for _, r := range missing {
		if w.Complete {
			before = append(before, AddRule{Rule: r.Rule})
		}
	}
	for _, r := range extra {
		// While group rules wait, one of another shape may stand in for them.
		if w.Complete || len(missing) == 0 {
			after = append(after, DelRule{Rule: r})
		}
	}
	return slices.Concat(before, add, del, after)
}

// ruleChanges returns the changes of the ENIs' rules, and the rules that the ENIs have after
// them, those that rest too.
func (w Want) ruleChanges(s State) (add, del []Change, rules []Rule) {
	for _, t := range w.Targets {
		own := filter(s.Rules, func(r Rule) bool { return r.Table == t.Number && (atENI(r) || r.Priority == t.Priority) })
		wanted := kernelRules(t.Rules)
		missing, extra := difference(own, wanted, itself)
		rules = append(rules, wanted...)
		for _, r := range missing {
			add = append(add, AddRule{t.Name, r.Rule})
		}
		for _, r := range extra {
			if w.spares(s, t, r) {
				rules = append(rules, r)
			} else {
				del = append(del, DelRule{t.Name, r})
			}
		}
	}
	for _, r := range s.Rules {
		if !atENI(r) || w.serves(r.Table) {
			continue
		}
		if name, goes := w.unserved(r); goes {
			del = append(del, DelRule{name, r})
		} else if ofENI(r) {
			rules = append(rules, r)
		}
	}
	return add, del, rules
}

// unserved reports whether a rule at the number of an ENI that is not served goes, and
// returns the interface that it was for.
func (w Want) unserved(r Rule) (name string, goes bool) {
	if c, ok := find(w.Clear, func(c Claim) bool { return c.Number == r.Table && (!c.Own || ofENI(r)) }); ok {
		return c.Name, true
	}
	m, ok := find(w.Moved, func(m MovedRule) bool { return m.Rule == r })
	return m.Name, ok
}

func (w Want) serves(number int) bool {
	return slices.ContainsFunc(w.Targets, func(t Target) bool { return t.Number == number })
}

// spares reports whether a rule at an ENI's number stays although it is not wanted.
func (w Want) spares(s State, t Target, r Rule) bool {
	if slices.ContainsFunc(w.Moved, func(m MovedRule) bool { return m.Rule == r }) {
		return false
	}
	switch t.Spare {
	case SpareAll:
		return true
	case SpareLive:
		// An ENI that wants no rule is to have none, so nothing is spared.
		return len(t.Rules) > 0 && !r.Odd() && r.Protocol == iprule.Protocol && r.From.IsSingleIP() &&
			s.Has(t.Link.Index, r.From.Addr()) && !hasRuleFrom(t.Rules, r.From.Addr())
	}
	return false
}

func kernelRules(rules []iprule.Rule) []Rule {
	all := make([]Rule, len(rules))
	for i, r := range rules {
		all[i].Rule = r
	}
	return all
}
