package hooks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ec2net/facts"
	"ec2net/hooks/mangle"
	"ec2net/plan"
)

// The checks of a sequence's model, and what it expects.

// answer checks that the leased address of an interface has its rule.
func (s *sequence) answer(name string) {
	if rule := s.rule(name, s.up[name]); !slices.Contains(s.kernelRules(s.t), rule) {
		s.fail("%s lacks %q", name, rule)
	}
}

// numberOf returns the number of an ENI under a name.
func numberOf(name string, mac facts.MAC) int {
	if n, ok := strings.CutPrefix(name, "eth"); ok {
		return 1000 + int(n[0]-'0')
	}
	return 1000 + int(mac[5]) // its device number
}

// taken reports whether another attached ENI has the number that this one would have under
// a name: ec2net refuses that.
func (s *sequence) taken(name string, mac facts.MAC) bool {
	for other, m := range s.attached {
		if m != mac && numberOf(other, m) == numberOf(name, mac) {
			return true
		}
	}
	return false
}

func (s *sequence) rulesOf(name string) (rules []string) {
	for _, r := range s.kernelRules(s.t) {
		if strings.HasPrefix(r, fmt.Sprintf("pref %d ", s.numbers[name])) && strings.HasSuffix(r, "protocol 236") {
			rules = append(rules, r)
		}
	}
	return rules
}

// rule returns the rule of an address of an interface.
func (s *sequence) rule(name string, a netip.Addr) string {
	return fmt.Sprintf("pref %d from %s lookup %d protocol 236", s.numbers[name], a, s.numbers[name])
}

// kept checks that the leased address of an interface that is up still has its rule.
func (s *sequence) kept(name string, lease netip.Addr, before []string) {
	rule := s.rule(name, lease)
	if !s.wiped && s.up[name] == lease && slices.Contains(before, rule) && !slices.Contains(s.rulesOf(name), rule) {
		s.fail("%s has lost the rule of its leased address", name)
	}
}

// never checks that a change of rules has left no address of an ENI without one, whatever
// befell ec2net.
func (s *sequence) never(name string, before []string) {
	rules := s.kernelRules(s.t)
	mac := s.attached[name]
	for _, a := range s.vpc.enis[mac].IPv4 {
		if of, late := s.lagging[a]; late && of == mac {
			continue // the address has moved away
		}
		has := func(rules []string) bool {
			for up := range s.up {
				if slices.Contains(rules, s.rule(up, a)) {
					return true
				}
			}
			return false
		}
		if has(before) && !has(rules) && !s.wiped {
			s.fail("%v of %s is without a rule", a, name)
		}
	}
}

// silent checks that, while IMDS does not answer, an address that an interface has keeps
// its rule, unless another ENI has the address.
func (s *sequence) silent(name string, had, before []string) {
	rules := s.kernelRules(s.t)
	others := s.contested(s.attached[name])
	for _, p := range had {
		a := netip.MustParsePrefix(p).Addr()
		if rule := s.rule(name, a); !s.wiped && slices.Contains(before, rule) && !slices.Contains(rules, rule) && !slices.Contains(others, a) {
			s.fail("%s has %v, and has lost %q", name, a, rule)
		}
	}
}

// parseAddr returns an invalid address for the leased one, which has the length of its
// subnet.
func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

// none checks that an interface has no rules. It does not check one whose number another
// has or had, since the rules may be that one's.
func (s *sequence) none(name string) {
	for other, n := range s.numbers {
		if other != name && n == s.numbers[name] {
			return
		}
	}
	if slices.ContainsFunc(s.onDisk(), func(e facts.ENI) bool { return e.Name != name && e.Number == s.numbers[name] }) {
		return
	}
	if rules := s.rulesOf(name); len(rules) > 0 {
		s.fail("%s is gone, and has rules:\n%s", name, strings.Join(rules, "\n"))
	}
}

// whole checks that an interface has all that it is to have.
func (s *sequence) whole(name string) {
	lease, up := s.up[name]
	if !up {
		s.fail("%s is not up", name)
		return
	}
	got := s.rulesOf(name)
	addresses := s.addrsNow(s.t, name)
	var wants []string
	for _, e := range append(slices.Clone(s.seen[name]), facts.ENI{}) {
		if e.MAC != s.attached[name] {
			e = facts.ENI{}
			if len(wants) > 0 {
				continue
			}
		}
		theirs, doubt := s.expected(e, lease)
		rules, ips := wanted(s.numbers[name], lease, theirs)
		there := slices.DeleteFunc(slices.Clone(addresses), func(a string) bool {
			bare := strings.TrimSuffix(a, "/32")
			return !slices.Contains(ips, a) && slices.Contains(s.slack, bare) || slices.Contains(doubt, parseAddr(bare))
		})
		// Remembered facts take no rule from an address that the interface has. With networkd
		// nothing asks IMDS once the interface is up.
		old := s.vpc.err != nil || s.strike.hit != "" || s.networkd != nil
		live := slices.DeleteFunc(slices.Clone(got), func(rule string) bool {
			of := func(a netip.Addr) bool { return rule == s.rule(name, a) }
			return slices.ContainsFunc(doubt, of) || old && !slices.Contains(rules, rule) && slices.ContainsFunc(addresses, func(a string) bool {
				a = strings.TrimSuffix(a, "/32")
				return slices.Contains(s.slack, a) && rule == s.rule(name, parseAddr(a))
			})
		})
		if slices.Equal(live, rules) && slices.Equal(there, ips) {
			s.holds[name] = s.rule(name, lease)
			if e.IPv4 != nil {
				s.routed(name, e)
			}
			return
		}
		wants = append(wants, fmt.Sprintf("%q\n  %s", ips, strings.Join(rules, "\n  ")))
	}
	s.fail("%s has %q\n  %s\nwant:\n%s", name, addresses, strings.Join(got, "\n  "), strings.Join(wants, "\nor:\n"))
}

// routed checks that the table of an ENI has its routes, and that its group rules are there.
func (s *sequence) routed(name string, e facts.ENI) {
	state := s.state(s.t)
	l, _ := state.LinkNamed(name)
	for _, dst := range []netip.Prefix{e.Subnet, netip.MustParsePrefix("0.0.0.0/0")} {
		if !slices.ContainsFunc(state.Routes, func(r plan.Route) bool {
			return r.Table == s.numbers[name] && r.Link == l.Index && r.Dst == dst
		}) {
			s.fail("table %d of %s has no route to %v", s.numbers[name], name, dst)
		}
	}
	for _, packets := range []string{e.Subnet.String(), fmt.Sprintf("all fwmark 0x%x/0x3fff", s.numbers[name])} {
		rule := "pref 999 from " + packets + " lookup main suppress_prefixlength 1 suppress_ifgroup 1000 protocol 236"
		if !slices.Contains(rulesOf(state), rule) && !s.anyForeign(state) {
			s.fail("%s lacks %q", name, rule)
		}
	}
}

// marked checks the marks after a run that has made them. If the machine forwards packets,
// each ENI that is whole has its marks once, and one that is gone has none; otherwise there
// are none.
func (s *sequence) marked() {
	lines := s.firewall.text(mangle.NFT)
	if !s.Kernel.Forwards() {
		if len(lines) > 0 {
			s.fail("marks on a machine that forwards nothing:\n%s", strings.Join(lines, "\n"))
		}
		return
	}
	for name := range s.holds {
		for _, want := range []string{"-N ec2net-" + name, "PREROUTING -i " + name + " -j ec2net-" + name, "PREROUTING -j ec2net-docker"} {
			if !slices.Contains(lines, want) {
				s.fail("%s is up, and there is no %q among the marks:\n%s", name, want, strings.Join(lines, "\n"))
			}
		}
	}
	for i, line := range lines {
		_, jump, _ := strings.Cut(line, "PREROUTING -i ")
		name, _, _ := strings.Cut(jump, " ")
		_, there := s.attached[name]
		if i > 0 && line == lines[i-1] || name != "" && name != "eth0" && !there {
			s.fail("a mark twice, or of an ENI that is gone: %s", line)
		}
	}
}

// anyForeign reports whether another program has put an ENI into another group, or has brought
// one up that ec2net does not know.
func (s *sequence) anyForeign(state plan.State) bool {
	return slices.ContainsFunc(state.Links, func(l plan.Link) bool {
		return l.Group != s.Numbers.Base && (l.Group != 0 || s.up[l.Name].IsValid() && !s.sends(l))
	})
}

// elsewhere returns the facts that IMDS gave of a device under other names.
func (s *sequence) elsewhere(name string) (said []facts.ENI) {
	if !facts.NumberedByName(name) {
		return nil // its name does not give its number: ec2net asks IMDS
	}
	kept, err := s.memory().recall("")
	check(s.t, err)
	var noted []facts.ENI
	for _, k := range kept.Known {
		if k.Facts.Name != "" && k.Facts.Name != name {
			noted = append(noted, k.Facts)
		}
	}
	for _, other := range names {
		if other != name {
			noted = append(noted, s.seen[other]...)
		}
	}
	return slices.DeleteFunc(noted, func(e facts.ENI) bool { return e.MAC != s.attached[name] })
}

// wanted returns the rules and addresses that follow from facts; e is zero if IMDS has
// not answered.
func wanted(n int, lease netip.Addr, e facts.ENI) (rules, addresses []string) {
	from := func(a netip.Addr) string { return fmt.Sprintf("pref %d from %s lookup %d protocol 236", n, a, n) }
	for _, a := range e.IPv4 {
		rules = append(rules, from(a))
		if a != lease {
			addresses = append(addresses, a.String()+"/32")
		}
	}
	if e.IPv4 != nil {
		rules = append(rules, fmt.Sprintf("pref %d from all fwmark 0x%x/0x3fff lookup %d protocol 236", n, n, n))
	}
	if !slices.Contains(e.IPv4, lease) {
		rules = append(rules, from(lease))
	}
	addresses = append(addresses, lease.String()+"/24")
	slices.Sort(rules)
	slices.Sort(addresses)
	return rules, addresses
}
