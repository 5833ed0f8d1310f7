package plan_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ec2net/fault"
	"ec2net/iprule"
	"ec2net/plan"
)

// attribute encodes an attribute of netlink's.
func attribute(kind uint16, value string) string {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	return string(binary.NativeEndian.AppendUint16(b, kind)) + value + strings.Repeat("\x00", -len(value)&3)
}

func u32(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }

// The commands of a change, on a machine that has more things like it. Package kernel
// tests that they do what the change does.
func TestCommands(t *testing.T) {
	eth1 := plan.Link{Name: "eth1", Index: 3}
	rule := func(from string, protocol int) plan.Rule {
		r := iprule.Rule{Priority: 1001, Table: 1001, Protocol: protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
		if from != "" {
			r.From = netip.MustParsePrefix(from)
		}
		return plan.Rule{Rule: r}
	}
	route := func(gateway string, metric int, extra string) plan.Route {
		r := plan.Route{Table: iprule.MainTable, Link: 3, Dst: netip.MustParsePrefix("0.0.0.0/0"), Metric: metric, Protocol: 16, Extra: extra}
		if gateway != "" {
			r.Gateway = netip.MustParseAddr(gateway)
		}
		return r
	}
	scoped := func(gateway string, scope int) plan.Route {
		r := route(gateway, 1001, "")
		r.Scope = scope
		return r
	}
	odd := rule("10.0.1.20/32", 236)
	odd.Extra = "port"
	own, less := rule("10.0.1.20/32", 236), rule("", 0)
	mtu := attribute(8, attribute(2, u32(1400)))
	for name, c := range map[string]struct {
		rules  []plan.Rule
		routes []plan.Route
		change plan.Change
		want   []string
	}{
		"the rule alone": {rules: []plan.Rule{own}, change: plan.DelRule{ENI: "eth1", Rule: own},
			want: []string{"ip rule del pref 1001 from 10.0.1.20 lookup 1001 protocol 236"}},
		"a rule that says less, behind another": {rules: []plan.Rule{own, less}, change: plan.DelRule{ENI: "eth1", Rule: less}, want: []string{
			"ip rule del pref 1001 from all lookup 1001 protocol 0",
			"ip rule del pref 1001 from all lookup 1001 protocol 0",
			"ip rule add pref 1001 from 10.0.1.20 lookup 1001 protocol 236"}},
		"a rule behind one that has no words": {rules: []plan.Rule{odd, less}, change: plan.DelRule{ENI: "eth1", Rule: less}},
		"a rule that has no words":            {rules: []plan.Rule{odd}, change: plan.DelRule{ENI: "eth1", Rule: odd}},
		"a rule that is not there":            {change: plan.DelRule{ENI: "eth1", Rule: own}},
		"a route with an MTU": {change: plan.AddRoute{Link: eth1, Route: route("10.0.1.1", 1001, mtu)},
			want: []string{"ip route add default via 10.0.1.1 dev eth1 metric 1001 proto dhcp mtu 1400"}},
		"a route with a locked MTU": {change: plan.AddRoute{Link: eth1, Route: route("10.0.1.1", 1001, attribute(8, attribute(1, u32(1<<2))+attribute(2, u32(1400))+attribute(8, u32(1360))))},
			want: []string{"ip route add default via 10.0.1.1 dev eth1 metric 1001 proto dhcp mtu lock 1400 advmss 1360"}},
		"a route with a lock of nothing": {change: plan.AddRoute{Link: eth1, Route: route("10.0.1.1", 1001, attribute(8, attribute(1, u32(1<<2))))}},
		"a route with another scope than ip gives it": {change: plan.AddRoute{Link: eth1, Route: scoped("", 0)},
			want: []string{"ip route add default dev eth1 metric 1001 proto dhcp scope global"}},
		"a route with a number for a scope": {change: plan.AddRoute{Link: eth1, Route: scoped("10.0.1.1", 77)},
			want: []string{"ip route add default via 10.0.1.1 dev eth1 metric 1001 proto dhcp scope 77"}},
		"a route by a nexthop object": {change: plan.AddRoute{Link: eth1, Route: route("", 1001, attribute(30, u32(7)))},
			want: []string{"ip route add default metric 1001 proto dhcp nhid 7"}},
		"a route with an attribute without a word": {change: plan.AddRoute{Link: eth1, Route: route("", 1001, attribute(99, u32(7)))}},
		"a route with half an attribute":           {change: plan.AddRoute{Link: eth1, Route: route("", 1001, "\x08")}},
		"a route": {routes: []plan.Route{route("10.0.1.1", 1001, "")}, change: plan.DelRoute{Link: eth1, Route: route("10.0.1.1", 1001, "")},
			want: []string{"ip route del default via 10.0.1.1 dev eth1 metric 1001 proto dhcp"}},
		"a route behind one that says more": {routes: []plan.Route{route("10.0.1.1", 1001, mtu), route("10.0.1.1", 1001, "")},
			change: plan.DelRoute{Link: eth1, Route: route("10.0.1.1", 1001, "")}},
		"a route moves": {routes: []plan.Route{route("10.0.1.1", 0, "")}, change: plan.MoveRoute{ENI: "eth1", Link: eth1, Route: route("10.0.1.1", 0, ""), Metric: 1001},
			want: []string{"ip route append default via 10.0.1.1 dev eth1 metric 1001 proto dhcp && ip route del default via 10.0.1.1 dev eth1 proto dhcp"}},
		"a route moves where it is already": {routes: []plan.Route{route("10.0.1.1", 0, ""), route("10.0.1.1", 1001, "")},
			change: plan.MoveRoute{ENI: "eth1", Link: eth1, Route: route("10.0.1.1", 0, ""), Metric: 1001},
			want:   []string{"ip route del default via 10.0.1.1 dev eth1 proto dhcp"}},
	} {
		s := plan.State{Links: []plan.Link{eth1}, Rules: c.rules, Routes: c.routes}
		got := plan.Commands(s, []plan.Change{c.change})[0]
		switch {
		case c.want != nil && !slices.Equal(got, c.want):
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		case c.want == nil && (len(got) != 1 || !strings.HasPrefix(got[0], "# no command")):
			t.Errorf("%s: %q, want a comment", name, got)
		}
	}
}

func TestAnswerError(t *testing.T) {
	if s := fault.Of(&plan.AnswerError{}); s != fault.Facts {
		t.Errorf("status %d", s)
	}
}
