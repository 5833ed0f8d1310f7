package hooks

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// via returns the gateway by which the kernel sends packets.
func (m *machine) via(t *testing.T, from, to string) string {
	t.Helper()
	routes, err := m.netns.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
	check(t, err)
	return routes[0].Gw.String()
}

// If main has a route by an ENI to a destination, packets from the ENI's address take it,
// whoever made it and in whatever order main lists the routes, also one whose gateway is
// behind another network. An administrator's routes in the ENI's own table stay, and come
// first.
func TestMainsRoutesInTheTable(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.address(t, "eth1", "192.168.9.2/24")
		m.addRoute(t, "eth1", "10.50.0.0/16", "192.168.9.1", 0, unix.RTPROT_STATIC)
		m.addRoute(t, "eth1", "10.60.0.0/16", "10.0.1.7", 1001, unix.RTPROT_DHCP) // option 121
		admins := m.route(t, "eth1", "10.70.0.0/16", "10.0.1.9", 7, unix.RTPROT_STATIC)
		admins.Table = 1001
		check(t, m.netns.RouteAdd(&admins))
		m.addRoute(t, "eth1", "10.70.0.0/16", "10.0.1.7", 0, unix.RTPROT_STATIC)

		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		for to, gateway := range map[string]string{"10.50.0.9": "192.168.9.1", "10.60.0.9": "10.0.1.7", "10.70.0.9": "10.0.1.9", "10.80.0.9": "10.0.1.1"} {
			if via := m.via(t, "10.0.1.20", to); via != gateway {
				t.Errorf("packets to %s leave by %s, want %s", to, via, gateway)
			}
		}
		m.log = nil
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "log of a second renewal", m.log, nil)

		// The kernel keeps a route whose gateway cannot be reached any more, and refuses a new one.
		m.address(t, "eth1", "192.168.10.2/24")
		m.addRoute(t, "eth1", "10.55.0.0/16", "192.168.10.1", 0, unix.RTPROT_STATIC)
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 10, 2), Mask: net.CIDRMask(24, 32)}}))
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if via := m.via(t, "10.0.1.20", "10.55.0.9"); via != "192.168.10.1" {
			t.Errorf("packets to 10.55.0.9 leave by %s", via)
		}
		m.delRoute(t, "eth1", "10.55.0.0/16", "192.168.10.1", 0)

		m.delRoute(t, "eth1", "10.50.0.0/16", "192.168.9.1", 0)
		m.delRoute(t, "eth1", "10.60.0.0/16", "10.0.1.7", 1001)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "table", m.table(t, 1001), []string{"10.0.1.0/24 dev eth1 table 1001", "10.70.0.0/16 via 10.0.1.9 dev eth1 metric 7 table 1001 proto static",
			"192.168.9.0/24 dev eth1 src 192.168.9.2 table 1001 proto 236", "default via 10.0.1.1 dev eth1 table 1001", "unreachable default metric 65535 table 1001"})
	})
}

// An administrator's route with several hops stays in the place of ec2net's, and goes with
// the ENI.
func TestRouteOfSeveralHops(t *testing.T) {
	onMachine(t, func(m *machine) {
		two(t, m)
		eth1, eth2 := m.linkNamed(t, "eth1"), m.linkNamed(t, "eth2")
		hops := []*netlink.NexthopInfo{{LinkIndex: eth1.Index, Gw: net.IPv4(10, 0, 1, 1)}, {LinkIndex: eth2.Index, Gw: net.IPv4(10, 0, 1, 1)}}
		everywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		check(t, m.netns.RouteReplace(&netlink.Route{Table: 1001, Dst: everywhere, MultiPath: hops}))
		beside := &net.IPNet{IP: net.IPv4(10, 7, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
		check(t, m.netns.RouteAdd(&netlink.Route{Table: 1001, Dst: beside, MultiPath: hops}))
		check(t, m.netns.RouteAdd(&netlink.Route{LinkIndex: eth1.Index, Dst: beside, Gw: net.IPv4(10, 0, 1, 7)}))
		several := func() (n int) {
			routes, err := m.netns.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 1001}, netlink.RT_FILTER_TABLE)
			check(t, err)
			for _, r := range routes {
				if len(r.MultiPath) > 0 {
					n++
				}
			}
			return n
		}
		check(t, m.RefreshAll(t.Context()))
		m.log = nil
		for _, reason := range []string{"RENEW", "REBIND"} {
			m.lease(t, "eth1", reason, "10.0.1.20")
			check(t, m.RefreshAll(t.Context()))
		}
		if n := several(); n != 2 || len(m.log) > 0 {
			t.Errorf("%d routes of several hops; did\n%s", n, strings.Join(m.log, "\n"))
		}
		m.pull(t, "eth1")
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		routes, err := m.netns.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 1001}, netlink.RT_FILTER_TABLE)
		if check(t, err); len(routes) > 0 {
			t.Errorf("left: %v", routes)
		}
	})
}
