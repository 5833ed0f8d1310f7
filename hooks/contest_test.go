package hooks

import (
	"net/netip"
	"testing"

	"ec2net/iprule"
	"ec2net/plan"
)

// A route of main flaps, and its copy follows. In the end ec2net no longer adds the copy, but
// it never leaves one that main no longer has. The same goes for rules and addresses.
func TestContestOfAFlap(t *testing.T) {
	link := plan.Link{Name: "eth1", Index: 3}
	route := plan.Route{Table: 1001, Link: 3, Dst: netip.MustParsePrefix("10.50.0.0/16"), Protocol: iprule.Protocol}
	rule := iprule.Rule{Priority: 1001, Table: 1001, From: netip.MustParsePrefix("10.0.1.21/32")}
	for _, c := range []struct{ add, del plan.Change }{
		{plan.AddRoute{ENI: "eth1", Link: link, Route: route}, plan.DelRoute{ENI: "eth1", Link: link, Route: route}},
		{plan.AddRoute{ENI: "eth1", Link: link, Route: route, Append: true}, plan.DelRoute{ENI: "eth1", Link: link, Route: route}},
		{plan.AddRule{ENI: "eth1", Rule: rule}, plan.DelRule{ENI: "eth1", Rule: plan.Rule{Rule: rule}}},
		{plan.AddAddr{Link: link, Addr: rule.From}, plan.DelAddr{Link: link, Addr: rule.From}},
	} {
		all, there := &contests{by: make(map[string]*contest)}, true
		makes := func(c plan.Change) bool {
			if len(all.without([]plan.Change{c})) == 0 {
				return false
			}
			all.made(c)
			return true
		}
		added := 0
		for range 40 {
			if there && !makes(c.del) {
				t.Fatalf("%s is left, and ec2net has made it", c.del)
			}
			if there = makes(c.add); there {
				added++
			}
		}
		if added != maxContest {
			t.Errorf("%s was made %d times", c.add, added)
		}
	}
}

// If watch leaves the group of an ENI to another program, it adds no group rule, which would
// send answers out by that ENI. It adds the ENI's own rules.
func TestContestOfAGroup(t *testing.T) {
	all := &contests{by: make(map[string]*contest)}
	group := plan.SetGroup{Link: plan.Link{Name: "eth0", Index: 2}, Group: 1000}
	own := plan.AddRule{ENI: "eth1", Rule: iprule.Rule{Priority: 1001, Table: 1001}}
	changes := func() []plan.Change { return []plan.Change{group, plan.AddRule{Rule: iprule.Rule{Priority: 999}}, own} }
	for n := range maxContest {
		if got := all.without(changes()); len(got) != 3 {
			t.Fatalf("after %d: %v", n, got)
		}
		all.made(group)
	}
	if got := all.without(changes()); len(got) != 1 || got[0] != own {
		t.Errorf("%v", got)
	}
}
