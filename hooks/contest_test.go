package hooks

import (
	"net/netip"
	"testing"

	"ec2net/iprule"
	"ec2net/plan"
)

// A route of main flaps, and the copy of it follows: in the end ec2net leaves the copy
// away, but never one that it has made and that main no longer has. The same of rules and
// addresses.
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
