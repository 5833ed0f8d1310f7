package hooks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ec2net/facts"
)

// What the model beside a sequence wants to be there.

// answer holds that the leased address of an interface has its rule.
func (s *sequence) answer(name string) {
	if rule := leasedRule(name, s.up[name]); !slices.Contains(s.kernelRules(s.t), rule) {
		s.fail("%s lacks %q", name, rule)
	}
}

// number is that of a name's table, priority and mark.
func number(name string) int { return 1000 + int(name[3]-'0') }

func (s *sequence) rulesOf(name string) (rules []string) {
	for _, r := range s.kernelRules(s.t) {
		if strings.HasPrefix(r, fmt.Sprintf("pref %d ", number(name))) && strings.HasSuffix(r, "protocol 236") {
			rules = append(rules, r)
		}
	}
	return rules
}

// kept holds that the leased address of what is up has the rule that it had.
func (s *sequence) kept(name string, lease netip.Addr, before []string) {
	rule := leasedRule(name, lease)
	if s.up[name] == lease && slices.Contains(before, rule) && !slices.Contains(s.rulesOf(name), rule) {
		s.fail("%s has lost the rule of its leased address", name)
	}
}

// parseAddr is not valid for the leased address, which has the length of its subnet.
func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

func leasedRule(name string, lease netip.Addr) string {
	return fmt.Sprintf("pref %d from %s lookup %d protocol 236", number(name), lease, number(name))
}

// none holds that nothing is left of an interface.
func (s *sequence) none(name string) {
	if rules := s.rulesOf(name); len(rules) > 0 {
		s.fail("%s is gone, and has rules:\n%s", name, strings.Join(rules, "\n"))
	}
}

// whole holds that an interface has all that it is to have.
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
		rules, ips := wanted(name, lease, theirs)
		there := slices.DeleteFunc(slices.Clone(addresses), func(a string) bool {
			bare := strings.TrimSuffix(a, "/32")
			return !slices.Contains(ips, a) && slices.Contains(s.slack, bare) || slices.Contains(doubt, parseAddr(bare))
		})
		// Old facts take no rule from an address that the interface has.
		old := s.vpc.err != nil || s.strike.hit != ""
		live := slices.DeleteFunc(slices.Clone(got), func(rule string) bool {
			of := func(a netip.Addr) bool { return rule == leasedRule(name, a) }
			return slices.ContainsFunc(doubt, of) || old && !slices.Contains(rules, rule) && slices.ContainsFunc(addresses, func(a string) bool {
				a = strings.TrimSuffix(a, "/32")
				return slices.Contains(s.slack, a) && rule == leasedRule(name, parseAddr(a))
			})
		})
		if slices.Equal(live, rules) && slices.Equal(there, ips) {
			s.holds[name] = leasedRule(name, lease)
			if e.IPv4 != nil && !slices.Contains(s.kernelRules(s.t), group999) {
				s.fail("no group rule")
			}
			return
		}
		wants = append(wants, fmt.Sprintf("%q\n  %s", ips, strings.Join(rules, "\n  ")))
	}
	s.fail("%s has %q\n  %s\nwant:\n%s", name, addresses, strings.Join(got, "\n  "), strings.Join(wants, "\nor:\n"))
}

// elsewhere is what IMDS has said of a device when it had another name.
func (s *sequence) elsewhere(name string) (said []facts.ENI) {
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

// wanted are the rules and addresses that follow from what IMDS said; e is zero
// if it has said nothing.
func wanted(name string, lease netip.Addr, e facts.ENI) (rules, addresses []string) {
	n := number(name)
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
