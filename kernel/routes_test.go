package kernel

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/plan"
)

// onNetwork makes eth1 and eth2, both on 10.0.1.0/24.
func onNetwork(t *testing.T, k *Kernel) (eth1, eth2 plan.Link) {
	t.Helper()
	eth1, eth2 = addVeth(t, "eth1", mac1), addVeth(t, "eth2", facts.MAC{2, 0, 0, 0, 1, 2})
	check(t, k.Apply(plan.AddAddr{Link: eth1, Addr: netip.MustParsePrefix("10.0.1.20/24")}))
	check(t, k.Apply(plan.AddAddr{Link: eth2, Addr: netip.MustParsePrefix("10.0.1.30/24")}))
	return eth1, eth2
}

// added returns the routes that are not the kernel's own.
func added(t *testing.T, k *Kernel) []plan.Route {
	t.Helper()
	return slices.DeleteFunc(look(t, k).Routes, func(r plan.Route) bool { return r.Dst == netip.MustParsePrefix("10.0.1.0/24") })
}

// addRoute adds a route behind those to the same destination.
func addRoute(t *testing.T, k *Kernel, r plan.Route) {
	t.Helper()
	check(t, k.Apply(plan.AddRoute{Route: r, Append: true}))
}

// Of many routes to one destination each is deleted alone. Deleting it again deletes none.
func TestDelRouteHitsNoOther(t *testing.T) {
	k := inNetns(t)
	eth1, eth2 := onNetwork(t, k)
	link := plan.Route{Table: 1001, Link: eth1.Index, Dst: netip.MustParsePrefix("10.7.0.0/16"), Scope: unix.RT_SCOPE_LINK, Protocol: 236}
	with := func(change func(*plan.Route)) plan.Route {
		r := link
		change(&r)
		return r
	}
	gateway := netip.MustParseAddr("10.0.1.1")
	routes := []plan.Route{
		with(func(r *plan.Route) { r.Link = eth2.Index }),
		link,
		with(func(r *plan.Route) { r.Metric, r.Protocol = 100, unix.RTPROT_DHCP }),
		with(func(r *plan.Route) { r.Metric = 1001 }),
		with(func(r *plan.Route) { r.Metric, r.Scope, r.Gateway = 1001, 0, gateway }),
		with(func(r *plan.Route) { r.Metric, r.Link, r.Source = 1002, eth2.Index, netip.MustParseAddr("10.0.1.30") }),
		with(func(r *plan.Route) { r.Metric, r.Scope, r.Gateway, r.OnLink = 1003, 0, gateway.Next(), true }),
	}
	for _, r := range routes {
		addRoute(t, k, r)
	}
	if got := added(t, k); !slices.Equal(got, routes) {
		t.Fatalf("%+v", got)
	}
	for i, r := range routes {
		for range 2 {
			check(t, k.Apply(plan.DelRoute{Route: r}))
			if got := added(t, k); !slices.Equal(got, routes[i+1:]) {
				t.Fatalf("deleted %+v: %+v", r, got)
			}
		}
	}
}

// If the kernel cannot tell two routes apart, and would delete the other one, the request
// is not made.
func TestDelRouteRefuses(t *testing.T) {
	k := inNetns(t)
	eth1, _ := onNetwork(t, k)
	plain := plan.Route{Table: 1001, Link: eth1.Index, Dst: netip.MustParsePrefix("10.7.0.0/16"), Protocol: 236}
	gateway := plain
	gateway.Gateway = netip.MustParseAddr("10.0.1.1")
	addRoute(t, k, gateway)
	addRoute(t, k, plain)
	before := added(t, k)
	if err := k.Apply(plan.DelRoute{Route: plain}); err == nil || !strings.Contains(err.Error(), "cannot tell") {
		t.Error(err)
	}
	if got := added(t, k); !slices.Equal(got, before) {
		t.Errorf("%+v", got)
	}
	check(t, k.Apply(plan.DelRoute{Route: gateway}))
	check(t, k.Apply(plan.DelRoute{Route: plain}))
}

// A request to delete a route would hit a route with several hops if it names the first hop,
// also if no look shows that. Then ec2net does not make the request.
func TestDelRouteSeveralHops(t *testing.T) {
	for _, first := range []bool{true, false} {
		for _, inMain := range []bool{true, false} {
			k := inNetns(t)
			eth1, eth2 := onNetwork(t, k)
			gateway := net.IPv4(10, 0, 1, 1)
			one, two := &netlink.NexthopInfo{LinkIndex: eth1.Index, Gw: gateway}, &netlink.NexthopInfo{LinkIndex: eth2.Index, Gw: gateway}
			several := &netlink.Route{Table: 1001, Dst: &net.IPNet{IP: net.IPv4(10, 7, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}, Priority: 100, Protocol: 236,
				MultiPath: []*netlink.NexthopInfo{two, one}}
			if first {
				several.MultiPath = []*netlink.NexthopInfo{one, two}
			}
			if inMain {
				several.Table = unix.RT_TABLE_MAIN
			}
			check(t, netlink.RouteAdd(several))
			own := plan.Route{Table: several.Table, Link: eth1.Index, Dst: netip.MustParsePrefix("10.7.0.0/16"), Gateway: netip.MustParseAddr("10.0.1.1"), Metric: 100, Protocol: 236}
			addRoute(t, k, own)
			all := func() int {
				routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: several.Table, Dst: several.Dst}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
				check(t, err)
				return len(routes)
			}
			whole := slices.DeleteFunc(added(t, k), func(r plan.Route) bool { return r.Link != 0 })
			if len(whole) == 1 == inMain || all() != 2 {
				t.Fatalf("%+v, %d in all", added(t, k), all())
			}
			_, err := k.Look(func([]plan.Link) plan.Scope { return plan.Scope{Tables: []int{1001}, Main: []int{eth1.Index}} })
			check(t, err)
			err = k.Apply(plan.DelRoute{Route: own})
			if left := all(); first && (left != 2 || err == nil || !strings.Contains(err.Error(), "cannot tell")) || !first && (left != 1 || err != nil || slices.Contains(added(t, k), own)) {
				t.Errorf("the first hop is the same: %t, in main: %t: %d are left, %v", first, inMain, left, err)
			}
			// It goes like any other.
			for _, r := range whole {
				check(t, k.Apply(plan.DelRoute{Route: r}))
			}
			if routes := added(t, k); slices.ContainsFunc(routes, func(r plan.Route) bool { return r.Link == 0 }) {
				t.Errorf("left: %+v", routes)
			}
		}
	}
}

// A moved route differs only in its metric; it keeps an MTU, for one. There is a route at
// every moment. Moving it again does nothing.
func TestMoveRoute(t *testing.T) {
	for name, kind := range map[string]func(l plan.Link) netlink.Route{
		"by the gateway": func(plan.Link) netlink.Route {
			return netlink.Route{Gw: net.IPv4(10, 0, 1, 1), Protocol: unix.RTPROT_DHCP, MTU: 1400, Src: net.IPv4(10, 0, 1, 20)}
		},
		"onlink": func(l plan.Link) netlink.Route {
			return netlink.Route{Gw: net.IPv4(10, 9, 0, 1), LinkIndex: l.Index, Flags: unix.RTNH_F_ONLINK, Priority: 100}
		},
		"direct": func(l plan.Link) netlink.Route {
			return netlink.Route{LinkIndex: l.Index, Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_KERNEL, Src: net.IPv4(10, 0, 1, 20)}
		},
	} {
		for _, carrier := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				k := inNetns(t)
				eth1, eth2 := onNetwork(t, k)
				r := kind(eth1)
				r.Dst = &net.IPNet{IP: net.IPv4(10, 7, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
				check(t, netlink.RouteAdd(&r))
				if !carrier {
					peer, err := netlink.LinkByName("p-eth1")
					check(t, err)
					check(t, netlink.LinkSetDown(peer))
				}
				before := added(t, k)
				if len(before) != 1 {
					t.Fatalf("%+v", before)
				}
				// Another one to the same destination has that metric already.
				other := plan.Route{Table: 254, Link: eth2.Index, Dst: before[0].Dst, Metric: 1001, Scope: unix.RT_SCOPE_LINK}
				addRoute(t, k, other)
				want := before[0]
				want.Metric = 1001

				second, err := Open()
				check(t, err)
				defer second.Close()
				k.route.received = func() {
					s, err := second.Look(nil)
					check(t, err)
					if !slices.Contains(s.Routes, before[0]) && !slices.Contains(s.Routes, want) {
						t.Error("no route for a moment")
					}
				}
				for range 2 {
					check(t, k.Apply(plan.MoveRoute{Link: eth1, Route: before[0], Metric: 1001}))
				}
				k.route.received = nil
				if got := added(t, k); !slices.Equal(got, []plan.Route{other, want}) {
					t.Errorf("got  %+v\nwant %+v", got, []plan.Route{other, want})
				}
				all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: eth1.Index, Dst: r.Dst}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
				check(t, err)
				if len(all) != 1 || all[0].MTU != r.MTU {
					t.Errorf("%+v", all)
				}
			})
		}
	}
}

// Adding a route again does not duplicate it. A route through another interface in its
// place stays, and nothing is added.
func TestAddRoute(t *testing.T) {
	k := inNetns(t)
	eth1, _ := onNetwork(t, k)
	for _, r := range []plan.Route{
		{Table: 1001, Link: eth1.Index, Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.1.1"), OnLink: true, Protocol: 236},
		{Table: 254, Link: eth1.Index, Dst: netip.MustParsePrefix("10.7.0.0/16"), Gateway: netip.MustParseAddr("fe80::1"), OnLink: true, Protocol: 236},
		{Table: 70000, Link: eth1.Index, Dst: netip.MustParsePrefix("10.7.0.0/16"), Scope: unix.RT_SCOPE_LINK, Source: netip.MustParseAddr("10.0.1.20"), Metric: 7, Protocol: 236},
	} {
		for range 2 {
			check(t, k.Apply(plan.AddRoute{Link: eth1, Route: r}))
			if got := added(t, k); !slices.Equal(got, []plan.Route{r}) {
				t.Errorf("got  %+v\nwant %+v", got, r)
			}
		}
		check(t, k.Apply(plan.DelRoute{Link: eth1, Route: r}))
	}
	r := plan.Route{Table: 1001, Link: eth1.Index, Dst: netip.MustParsePrefix("2001:db8::/64"), Metric: 1001, Protocol: 236}
	of6 := func() []plan.Route {
		all, _, err := k.routes(unix.AF_INET6, &plan.Scope{Tables: []int{1001}})
		check(t, err)
		return all
	}
	check(t, k.Apply(plan.AddRoute{Link: eth1, Route: r}))
	if got := of6(); !slices.Equal(got, []plan.Route{r}) {
		t.Errorf("%+v", got)
	}
	check(t, k.Apply(plan.DelRoute{Link: eth1, Route: r}))
	if got := of6(); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

// A look leaves out unicast routes with several interfaces, and local and multicast ones.
func TestOtherRoutes(t *testing.T) {
	k := inNetns(t)
	eth1, eth2 := onNetwork(t, k)
	dst := func(n byte) *net.IPNet {
		return &net.IPNet{IP: net.IPv4(10, n, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
	}
	for _, r := range []netlink.Route{
		{Dst: dst(1), Type: unix.RTN_LOCAL, LinkIndex: eth1.Index, Scope: unix.RT_SCOPE_HOST},
		{Dst: dst(2), Type: unix.RTN_MULTICAST, LinkIndex: eth1.Index, Table: 1001},
		{Dst: dst(3), MultiPath: []*netlink.NexthopInfo{{LinkIndex: eth1.Index}, {LinkIndex: eth2.Index}}},
	} {
		check(t, netlink.RouteAdd(&r))
	}
	if got := added(t, k); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}
