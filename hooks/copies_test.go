package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/iprule"
	"ec2net/plan"
)

const everywhere = "0.0.0.0/0"

func (m *machine) route(t *testing.T, name, dst, gateway string, metric int, by netlink.RouteProtocol) netlink.Route {
	t.Helper()
	l, err := m.netns.LinkByName(name)
	check(t, err)
	return netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(netip.MustParsePrefix(dst)), Gw: net.ParseIP(gateway),
		Priority: metric, Protocol: by}
}

func (m *machine) addRoute(t *testing.T, name, dst, gateway string, metric int, by netlink.RouteProtocol) {
	t.Helper()
	r := m.route(t, name, dst, gateway, metric, by)
	check(t, m.netns.RouteAdd(&r))
}

func (m *machine) delRoute(t *testing.T, name, dst, gateway string, metric int) {
	t.Helper()
	r := m.route(t, name, dst, gateway, metric, 0)
	check(t, m.netns.RouteDel(&r))
}

// mainNow returns main's routes to a destination, except for those of a TOS, in the order
// in which the kernel tries them.
func (m *machine) mainNow(t *testing.T, dst string) (routes []string) {
	t.Helper()
	s := m.state(t)
	for _, r := range s.Routes {
		if r.Table == unix.RT_TABLE_MAIN && r.Dst.String() == dst && r.TOS == 0 {
			l, _ := s.LinkAt(r.Link)
			text := fmt.Sprintf("%s %d", l.Name, r.Metric)
			if r.Gateway.IsValid() {
				text += " " + r.Gateway.String()
			}
			routes = append(routes, text)
		}
	}
	return routes
}

// dhcpcdPrimary gives the primary a lease, and a default route with the metric that its
// client chose.
func (m *machine) dhcpcdPrimary(t *testing.T, metric int, by netlink.RouteProtocol) {
	t.Helper()
	m.addRoute(t, "eth0", everywhere, "10.0.0.1", metric, by)
	m.lease(t, "eth0", "BOUND", "10.0.0.10")
}

// beUp brings an ENI up, whose client makes a default route with the ENI's metric.
func (m *machine) beUp(t *testing.T, name, addr string, metric int) {
	t.Helper()
	check(t, m.Add(t.Context(), name))
	m.address(t, name, addr+"/24")
	m.addRoute(t, name, everywhere, "10.0.1.1", metric, unix.RTPROT_DHCP)
	m.lease(t, name, "BOUND", addr)
}

// nothingLeft checks that renewing a lease changes nothing.
func (m *machine) nothingLeft(t *testing.T) {
	t.Helper()
	m.log = nil
	m.lease(t, "eth0", "RENEW", "10.0.0.10")
	m.lease(t, "eth1", "RENEW", "10.0.1.20")
	same(t, "log", m.log, nil)
}

// The primary's metric is above that of eth1, and equal to that of eth2: eth2's client
// takes the primary's route for its own.
func TestPrimaryIsCopied(t *testing.T) {
	for name, by := range map[string]netlink.RouteProtocol{"dhcp": unix.RTPROT_DHCP, "static": unix.RTPROT_BOOT} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				m.dhcpcdPrimary(t, 1002, by)
				m.addRoute(t, "eth0", "172.16.0.0/16", "10.0.0.1", 1002, unix.RTPROT_DHCP)
				m.addRoute(t, "eth0", "172.17.0.0/16", "10.0.0.7", 1002, unix.RTPROT_STATIC)
				same(t, "main without an ENI", m.mainNow(t, everywhere), []string{"eth0 1002 10.0.0.1"})

				run := m.Run
				var before []string
				m.Run = func(ctx context.Context, program string, args ...string) error {
					before = m.mainNow(t, everywhere)
					return run(ctx, program, args...)
				}
				m.beUp(t, "eth1", "10.0.1.20", 1001)
				same(t, "main before ifup", before, []string{"eth0 1000 10.0.0.1", "eth0 1002 10.0.0.1"})
				three := []string{"eth0 1000 10.0.0.1", "eth1 1001 10.0.1.1", "eth0 1002 10.0.0.1"}
				same(t, "main", m.mainNow(t, everywhere), three)
				same(t, "the client's other route", m.mainNow(t, "172.16.0.0/16"), []string{"eth0 1000 10.0.0.1", "eth0 1002 10.0.0.1"})
				same(t, "the administrator's", m.mainNow(t, "172.17.0.0/16"), []string{"eth0 1002 10.0.0.7"})
				m.nothingLeft(t)

				m.delRoute(t, "eth0", everywhere, "", 1002)
				m.beUp(t, "eth2", "10.0.1.30", 1002)
				without := []string{"eth0 1000 10.0.0.1", "eth1 1001 10.0.1.1", "eth2 1002 10.0.1.1"}
				same(t, "main without the original", m.mainNow(t, everywhere), without)
				m.nothingLeft(t)
				m.delRoute(t, "eth2", everywhere, "", 1002)
				m.addRoute(t, "eth0", everywhere, "10.0.0.1", 1002, by)
				m.nothingLeft(t)
				same(t, "main with the original again", m.mainNow(t, everywhere), three)

				// dhcpcd deletes the first route that has this interface and metric.
				all := m.routes(t)
				found := slices.IndexFunc(all, func(r plan.Route) bool { return r.Table == unix.RT_TABLE_MAIN && r.Dst.Bits() == 0 })
				r := m.route(t, "eth0", everywhere, "", all[found].Metric, 0)
				r.Scope = netlink.SCOPE_NOWHERE
				if err := m.netns.RouteDel(&r); !errors.Is(err, unix.ESRCH) || all[found].TOS == 0 {
					t.Errorf("dhcpcd deletes %v: %v", all[found], err)
				}
				same(t, "main after that", m.mainNow(t, everywhere), three)

				for _, name := range []string{"eth1", "eth2"} {
					l, err := m.netns.LinkByName(name)
					check(t, err)
					check(t, m.netns.LinkDel(l))
					check(t, m.RemoveIfGone(t.Context(), name))
				}
				same(t, "main without an ENI", m.mainNow(t, everywhere), []string{"eth0 1002 10.0.0.1"})
				same(t, "the client's other route", m.mainNow(t, "172.16.0.0/16"), []string{"eth0 1002 10.0.0.1"})
				for _, r := range m.routes(t) {
					if r.Protocol == iprule.Protocol {
						t.Errorf("left: %+v", r)
					}
				}
			})
		})
	}
}

// The copy is like the original except for metric and protocol, and the kernel drops it
// together with its source address.
func TestCopyIsLikeOriginal(t *testing.T) {
	onMachine(t, func(m *machine) {
		r := m.route(t, "eth0", everywhere, "192.0.2.1", 1002, unix.RTPROT_STATIC)
		r.Flags, r.MTU, r.AdvMSS, r.InitCwnd, r.Congctl = int(netlink.FLAG_ONLINK), 1400, 1360, 20, "reno"
		check(t, m.netns.RouteAdd(&r))
		m.address(t, "eth0", "10.0.0.11/24")
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		m.beUp(t, "eth1", "10.0.1.20", 1001)
		all, err := m.netns.RouteList(nil, netlink.FAMILY_V4)
		check(t, err)
		n := slices.IndexFunc(all, func(r netlink.Route) bool { return r.Dst.String() == everywhere && r.Tos == 0 })
		c := all[n]
		if c.Priority != 1000 || c.Protocol != iprule.Protocol || c.Gw.String() != "192.0.2.1" || c.Src.String() != "10.0.0.10" ||
			c.Flags&int(netlink.FLAG_ONLINK) == 0 || c.MTU != 1400 || c.AdvMSS != 1360 || c.InitCwnd != 20 || c.Congctl != "reno" {
			t.Errorf("the copy is %+v", c)
		}
		m.nothingLeft(t)
		l, err := m.netns.LinkByName("eth0")
		check(t, err)
		a, err := netlink.ParseAddr("10.0.0.10/24")
		check(t, err)
		check(t, m.netns.AddrDel(l, a))
		if now := m.mainNow(t, everywhere); slices.Contains(now, "eth0 1000 192.0.2.1") {
			t.Errorf("its source is gone, but the copy is still there: %q", now)
		}
	})
}

// The gateway changes: ec2net adds the new copy before it deletes the old one.
func TestGatewayChanges(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.dhcpcdPrimary(t, 1002, unix.RTPROT_DHCP)
		m.beUp(t, "eth1", "10.0.1.20", 1001)
		m.delRoute(t, "eth0", everywhere, "", 1002)
		m.addRoute(t, "eth0", everywhere, "10.0.0.2", 1002, unix.RTPROT_DHCP)
		m.log = nil
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "log", m.log, []string{
			"eth1: ip route append default tos 0xfc via 10.0.0.2 dev eth0 src 10.0.0.10 metric 999 proto 236 (RENEW)",
			"eth1: ip route append default via 10.0.0.2 dev eth0 src 10.0.0.10 metric 1000 proto 236 (RENEW)",
			"eth1: ip route del default tos 0xfc via 10.0.0.1 dev eth0 src 10.0.0.10 metric 999 proto 236 (RENEW)",
			"eth1: ip route del default via 10.0.0.1 dev eth0 src 10.0.0.10 metric 1000 proto 236 (RENEW)"})
		same(t, "main", m.mainNow(t, everywhere), []string{"eth0 1000 10.0.0.2", "eth1 1001 10.0.1.1", "eth0 1002 10.0.0.2"})
		m.nothingLeft(t)
	})
}

// A VPN's default route keeps its place: a copy of the primary's may pass only routes of
// ENIs. If the VPN's is between, there is no copy, and the ENIs' go behind the original.
func TestVPNBetween(t *testing.T) {
	onMachine(t, func(m *machine) {
		addVeth(t, m.netns, "vpn", [6]byte{2, 0xbe, 0, 0, 0, 1})
		m.address(t, "vpn", "192.0.2.1/30")
		m.addRoute(t, "vpn", everywhere, "192.0.2.2", 1003, unix.RTPROT_STATIC)
		m.dhcpcdPrimary(t, 1005, unix.RTPROT_DHCP)
		m.beUp(t, "eth1", "10.0.1.20", 1001)
		between := []string{"vpn 1003 192.0.2.2", "eth0 1005 10.0.0.1", "eth1 1006 10.0.1.1"}
		same(t, "main with a VPN between", m.mainNow(t, everywhere), between)
		m.nothingLeft(t)

		// The VPN goes, and comes back.
		m.delRoute(t, "vpn", everywhere, "", 1003)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "main without it", m.mainNow(t, everywhere), []string{"eth0 1000 10.0.0.1", "eth0 1005 10.0.0.1", "eth1 1006 10.0.1.1"})
		m.addRoute(t, "vpn", everywhere, "192.0.2.2", 1003, unix.RTPROT_STATIC)
		m.addRoute(t, "eth1", everywhere, "10.0.1.1", 1001, unix.RTPROT_DHCP) // by its client
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "main with it again", m.mainNow(t, everywhere), between)

		// Before all others or behind them, it changes nothing.
		m.delRoute(t, "vpn", everywhere, "", 1003)
		m.addRoute(t, "vpn", everywhere, "192.0.2.2", 50, unix.RTPROT_STATIC)
		m.addRoute(t, "vpn", everywhere, "192.0.2.2", 2000, unix.RTPROT_STATIC)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "main with it first and last", m.mainNow(t, everywhere),
			[]string{"vpn 50 192.0.2.2", "eth0 1000 10.0.0.1", "eth0 1005 10.0.0.1", "eth1 1006 10.0.1.1", "vpn 2000 192.0.2.2"})
		m.nothingLeft(t)
	})
}

// The primary's lease expires, and eth2's client renews before the primary is back: the
// primary's next default route still has a place before the others.
func TestPrimaryIsAway(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.dhcpcdPrimary(t, 1002, unix.RTPROT_DHCP)
		m.beUp(t, "eth1", "10.0.1.20", 1001)
		check(t, m.Add(t.Context(), "eth2"))
		m.address(t, "eth2", "10.0.1.30/24")
		l, err := m.netns.LinkByName("eth0")
		check(t, err)
		a, err := netlink.ParseAddr("10.0.0.10/24")
		check(t, err)
		check(t, m.netns.AddrDel(l, a))
		m.lease(t, "eth0", "EXPIRE", "")
		m.addRoute(t, "eth2", everywhere, "10.0.1.1", 1002, unix.RTPROT_DHCP)
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		m.address(t, "eth0", "10.0.0.10/24")
		m.addRoute(t, "eth0", everywhere, "10.0.0.1", 1002, unix.RTPROT_DHCP)
		if now := m.mainNow(t, everywhere); now[0] != "eth0 1002 10.0.0.1" {
			t.Errorf("before the primary's hook main has %q", now)
		}
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		if now := m.mainNow(t, everywhere); now[0] != "eth0 1000 10.0.0.1" || len(now) != 4 {
			t.Errorf("main has %q", now)
		}
		m.nothingLeft(t)
	})
}

// The primary's own table has the original, or, if that is gone, the copy.
func TestPrimaryTableHasNoCopy(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		table := func() (routes []string) {
			t.Helper()
			for _, r := range m.routes(t) {
				if r.Table == 1000 && r.Dst.Bits() == 0 {
					routes = append(routes, fmt.Sprint(r.Metric))
				}
			}
			return routes
		}
		m.dhcpcdPrimary(t, 1002, unix.RTPROT_DHCP)
		m.beUp(t, "eth1", "10.0.1.20", 1001)
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "the primary's table", table(), []string{"1002"})
		m.delRoute(t, "eth0", everywhere, "", 1002)
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "without the original", table(), []string{"1000"})
		m.addRoute(t, "eth0", everywhere, "10.0.0.1", 1002, unix.RTPROT_DHCP)
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "with it again", table(), []string{"1002"})
		m.nothingLeft(t)
	})
}

// Without the copy the ENI does not come up: its client might delete the primary's
// default route.
func TestNoENIWithoutCopy(t *testing.T) {
	for _, part := range []string{"tos 0xfc", "metric 1000"} {
		onMachine(t, func(m *machine) {
			m.dhcpcdPrimary(t, 1002, unix.RTPROT_DHCP)
			genuine := m.Kernel
			m.Kernel = refuses{genuine, part}
			if err := m.Add(t.Context(), "eth1"); !errors.Is(err, unix.ENOBUFS) {
				t.Errorf("%v", err)
			}
			same(t, "programs", m.ran, nil)
			m.Kernel = genuine
			m.beUp(t, "eth1", "10.0.1.20", 1001)
			same(t, "main", m.mainNow(t, everywhere), []string{"eth0 1000 10.0.0.1", "eth1 1001 10.0.1.1", "eth0 1002 10.0.0.1"})
		})
	}
}
