package hooks

import (
	"net"
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

// What is sent from an ENI's address to a destination to which main has a route by that
// ENI takes that route, whoever made it and in whatever order main lists the routes: that
// of a gateway behind another network too. An administrator's routes in the ENI's own
// table stay, and come first.
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
