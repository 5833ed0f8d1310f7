package kernel

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ec2net/iproute"
	"ec2net/iprule"
	"ec2net/plan"
)

// extra returns the Extra of a route with metrics: pairs of RTAX_ and a value.
func extra(metrics ...uint32) string {
	attr := nl.NewRtAttr(unix.RTA_METRICS, nil)
	for i := 0; i < len(metrics); i += 2 {
		attr.AddRtAttr(int(metrics[i]), nl.Uint32Attr(metrics[i+1]))
	}
	return string(attr.Serialize())
}

// routesTo returns main's routes to a destination.
func routesTo(t *testing.T, k *Kernel, dst netip.Prefix) (found []plan.Route) {
	t.Helper()
	for _, r := range look(t, k).Routes {
		if r.Table == iprule.MainTable && r.Dst == dst {
			found = append(found, r)
		}
	}
	return found
}

func wantRoutes(t *testing.T, got, want []plan.Route) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("\n%+v\nwant\n%+v", got, want)
	}
}

// Routes to one destination may differ only in the type of service, in an MTU or in the
// gateway. Each is deleted or moved alone.
func TestRoutesAlike(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	check(t, k.Apply(plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	plain := plan.Route{Table: iprule.MainTable, Link: l.Index, Dst: everywhere, Gateway: netip.MustParseAddr("10.0.1.1"), Metric: 100, Protocol: unix.RTPROT_STATIC}
	decoy, large, small, other := plain, plain, plain, plain
	decoy.TOS, decoy.Metric = 0xfc, 99
	large.Extra = extra(unix.RTAX_MTU, 9001)
	small.Extra = extra(unix.RTAX_MTU, 1400, unix.RTAX_INITCWND, 20)
	other.Gateway = netip.MustParseAddr("10.0.1.9")
	add := func(r plan.Route) { check(t, k.Apply(plan.AddRoute{Link: l, Route: r, Append: true})) }
	for _, r := range []plan.Route{large, plain, other, small, decoy, plain, decoy} {
		add(r)
	}
	// Those with a type of service come first, and there are no duplicates.
	wantRoutes(t, routesTo(t, k, everywhere), []plan.Route{decoy, large, plain, other, small})

	// Without Append a second one is not added.
	second := plain
	second.Protocol = unix.RTPROT_BOOT
	check(t, k.Apply(plan.AddRoute{Link: l, Route: second}))
	wantRoutes(t, routesTo(t, k, everywhere), []plan.Route{decoy, large, plain, other, small})

	// A request without an MTU would hit the first: none is deleted.
	for _, c := range []plan.Change{plan.DelRoute{Link: l, Route: plain}, plan.MoveRoute{Link: l, Route: plain, Metric: 200}} {
		if err := k.Apply(c); err == nil || err.Error() != "the kernel cannot tell this route from another one to 0.0.0.0/0 with metric 100" {
			t.Errorf("%s: %v", c, err)
		}
	}
	wantRoutes(t, routesTo(t, k, everywhere), []plan.Route{decoy, large, plain, other, small})

	moved := small
	moved.Metric = 50
	check(t, k.Apply(plan.MoveRoute{Link: l, Route: small, Metric: 50}))
	check(t, k.Apply(plan.DelRoute{Link: l, Route: large}))
	check(t, k.Apply(plan.DelRoute{Link: l, Route: other}))
	wantRoutes(t, routesTo(t, k, everywhere), []plan.Route{decoy, moved, plain})
	check(t, k.Apply(plan.DelRoute{Link: l, Route: decoy}))
	check(t, k.Apply(plan.DelRoute{Link: l, Route: decoy}))
	check(t, k.Apply(plan.DelRoute{Link: l, Route: plain}))
	wantRoutes(t, routesTo(t, k, everywhere), []plan.Route{moved})
}

// A request hits a route that has all attributes in it.
func TestHitsRoute(t *testing.T) {
	plain := plan.Route{Dst: netip.MustParsePrefix("10.7.0.0/16"), Metric: 100, Protocol: unix.RTPROT_STATIC}
	with := func(change func(*plan.Route)) plan.Route {
		r := plain
		change(&r)
		return r
	}
	mtu := with(func(r *plan.Route) { r.Extra = extra(unix.RTAX_MTU, 1400) })
	both := with(func(r *plan.Route) { r.Extra = extra(unix.RTAX_MTU, 1400, unix.RTAX_INITCWND, 20) })
	realm := with(func(r *plan.Route) { r.Extra = string(nl.NewRtAttr(unix.RTA_FLOW, nl.Uint32Attr(7)).Serialize()) })
	tos := with(func(r *plan.Route) { r.TOS = 0xfc })
	for _, c := range []struct {
		named, has plan.Route
		hits       bool
	}{
		{plain, mtu, true}, {plain, realm, true}, {mtu, both, true}, {both, both, true},
		{mtu, plain, false}, {both, mtu, false}, {realm, plain, false}, {realm, mtu, false},
		{mtu, with(func(r *plan.Route) { r.Extra = extra(unix.RTAX_MTU, 1300) }), false},
		{plain, tos, false}, {tos, plain, false}, {tos, tos, true},
	} {
		if hitsRoute(c.named, c.has) != c.hits {
			t.Errorf("%+v, %+v: %t", c.named, c.has, !c.hits)
		}
	}
}

// A route that uses a nexthop object has its id, and so does a copy of the route.
func TestNexthopObject(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	check(t, k.Apply(plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
	const newNexthop, id, oif, gateway = 104, 1, 5, 6 // RTM_NEWNEXTHOP, NHA_ of linux/nexthop.h
	object := request(newNexthop, unix.NLM_F_CREATE|unix.NLM_F_ACK, append([]byte{unix.AF_INET, 0, unix.RTPROT_STATIC, 0}, uint32s(0)...))
	addNumber(object, id, 7)
	addNumber(object, oif, l.Index)
	add(object, gateway, netip.MustParseAddr("10.0.1.1").AsSlice())
	check(t, k.route.do(object, nil))
	dst := netip.MustParsePrefix("10.7.0.0/16")
	r := plan.Route{Table: iprule.MainTable, Link: l.Index, Dst: dst, Gateway: netip.MustParseAddr("10.0.1.1"), Metric: 1002, Protocol: unix.RTPROT_STATIC,
		Extra: string(nl.NewRtAttr(nextHop, nl.Uint32Attr(7)).Serialize())}
	c := r
	c.Metric, c.Protocol = 1000, iprule.Protocol
	for _, r := range []plan.Route{r, c} {
		check(t, k.Apply(plan.AddRoute{Link: l, Route: r}))
	}
	wantRoutes(t, routesTo(t, k, dst), []plan.Route{c, r})
	check(t, k.Apply(plan.DelRoute{Link: l, Route: c}))
	wantRoutes(t, routesTo(t, k, dst), []plan.Route{r})
}

// A route with several gateways by one interface is copied and moved as it is. A request for
// a route by the first of them alone would hit it too. A look sees the same without a carrier.
func TestSeveralGateways(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	check(t, k.Apply(plan.AddAddr{Link: l, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
	dst := netip.MustParsePrefix("10.50.0.0/16")
	hop := func(gateway net.IP, weight, flags int) *netlink.NexthopInfo {
		return &netlink.NexthopInfo{LinkIndex: l.Index, Gw: gateway, Hops: weight - 1, Flags: flags}
	}
	check(t, netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(16, 32)}, Protocol: unix.RTPROT_STATIC,
		MultiPath: []*netlink.NexthopInfo{hop(net.IPv4(10, 0, 1, 7), 1, 0), hop(net.IPv4(192, 0, 2, 8), 3, unix.RTNH_F_ONLINK)}}))
	before := routesTo(t, k, dst)
	if len(before) != 1 || before[0].Link != l.Index || before[0].Gateway != netip.MustParseAddr("10.0.1.7") || before[0].Extra == "" {
		t.Fatalf("%+v", before)
	}
	peer, err := netlink.LinkByName("p-eth1")
	check(t, err)
	check(t, netlink.LinkSetDown(peer))
	wantRoutes(t, routesTo(t, k, dst), before)
	check(t, netlink.LinkSetUp(peer))

	c := before[0]
	c.Table, c.Protocol = 1001, iprule.Protocol
	check(t, k.Apply(plan.AddRoute{Link: l, Route: c}))
	scope := func([]plan.Link) plan.Scope { return plan.Scope{Tables: []int{1001}} }
	s, err := k.Look(scope)
	check(t, err)
	wantRoutes(t, s.Routes, []plan.Route{c})
	check(t, k.Apply(plan.DelRoute{Link: l, Route: c}))
	s, err = k.Look(scope)
	check(t, err)
	wantRoutes(t, s.Routes, nil)

	alone := before[0]
	alone.Extra = ""
	check(t, k.Apply(plan.AddRoute{Link: l, Route: alone, Append: true}))
	if err := k.Apply(plan.DelRoute{Link: l, Route: alone}); err == nil || !strings.Contains(err.Error(), "cannot tell") {
		t.Errorf("the kernel would delete the other one: %v", err)
	}
	check(t, k.Apply(plan.MoveRoute{Link: l, Route: before[0], Metric: 7}))
	moved := before[0]
	moved.Metric = 7
	wantRoutes(t, routesTo(t, k, dst), []plan.Route{alone, moved})
	check(t, k.Apply(plan.DelRoute{Link: l, Route: alone}))
	wantRoutes(t, routesTo(t, k, dst), []plan.Route{moved})
}

// A route that leads nowhere has no interface. A request for one kind hits no other kind,
// and a look reads it in the tables of its scope, but not in main.
func TestDeadEnds(t *testing.T) {
	k := inNetns(t)
	l := addVeth(t, "eth1", mac1)
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	var want []plan.Route
	for _, r := range []plan.Route{
		{Kind: iproute.Unreachable}, {Kind: iproute.Blackhole}, {Kind: iproute.Prohibit}, {Kind: iproute.Throw},
		{Link: l.Index, Scope: unix.RT_SCOPE_LINK},
	} {
		for _, table := range []int{1001, iprule.MainTable} {
			r.Table, r.Dst, r.Metric, r.Protocol = table, everywhere, 65535, unix.RTPROT_BOOT
			check(t, k.Apply(plan.AddRoute{Route: r, Append: true}))
			if table == 1001 || r.Kind == iproute.Unicast {
				want = append(want, r)
			}
		}
	}
	slices.SortStableFunc(want, func(a, b plan.Route) int { return b.Table - a.Table })
	scope := func([]plan.Link) plan.Scope { return plan.Scope{Tables: []int{1001}, Main: []int{l.Index}} }
	s, err := k.Look(scope)
	check(t, err)
	wantRoutes(t, s.Routes, want)
	check(t, k.Apply(plan.DelRoute{Route: want[2]}))
	s, err = k.Look(scope)
	check(t, err)
	wantRoutes(t, s.Routes, slices.Delete(want, 2, 3))
}

// A look also reads the routes through other links to the destinations of its links.
func TestLooksBeside(t *testing.T) {
	k := inNetns(t)
	l, vpn := addVeth(t, "eth1", mac1), addVeth(t, "vpn", mac1)
	route := func(link int, dst string, metric int) plan.Route {
		r := plan.Route{Table: iprule.MainTable, Link: link, Dst: netip.MustParsePrefix(dst), Metric: metric, Protocol: unix.RTPROT_STATIC, Scope: unix.RT_SCOPE_LINK}
		check(t, k.Apply(plan.AddRoute{Route: r}))
		return r
	}
	want := []plan.Route{route(vpn.Index, "0.0.0.0/0", 50), route(l.Index, "0.0.0.0/0", 1002), route(vpn.Index, "10.7.0.0/16", 0), route(l.Index, "10.7.0.0/16", 1002)}
	route(vpn.Index, "10.0.0.0/8", 0)
	route(vpn.Index, "10.7.0.0/24", 0)
	route(vpn.Index, "10.8.0.0/16", 0)
	s, err := k.Look(func([]plan.Link) plan.Scope { return plan.Scope{Main: []int{l.Index}} })
	check(t, err)
	wantRoutes(t, s.Routes, want)
}
