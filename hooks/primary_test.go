package hooks

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// table returns the routes of a table, in the words of ip-route(8).
func (m *machine) table(t *testing.T, table int) (texts []string) {
	t.Helper()
	s := m.state(t)
	for _, r := range s.Routes {
		if l, _ := s.LinkAt(r.Link); r.Table == table {
			texts = append(texts, strings.TrimPrefix(plan.AddRoute{Link: l, Route: r}.String(), "ip route add "))
		}
	}
	slices.Sort(texts)
	return texts
}

// withPrimaryTable makes the settings the default ones, and lets ifup be at work on eth1: then
// the primary has a table of its own.
func (m *machine) withPrimaryTable(t *testing.T) {
	t.Helper()
	m.Numbers.Primary = true
	e, err := m.vpc.ENI(t.Context(), "eth1", macs["eth1"], m.Numbers)
	check(t, err)
	_, err = m.memory().keep(e)
	check(t, err)
	check(t, m.memory().setNote(m.linkNamed(t, "eth1"), e.Number))
}

// primaryTable gives the primary a table of its own, and in main a route by a router that
// no other route leads to.
func primaryTable(t *testing.T, m *machine) {
	t.Helper()
	m.withPrimaryTable(t)
	l, err := m.netns.LinkByName("eth0")
	check(t, err)
	check(t, m.netns.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(netip.MustParsePrefix("10.50.0.0/16")),
		Gw: net.IPv4(192, 0, 2, 1), Flags: int(netlink.FLAG_ONLINK)}))
}

// No DHCP client with a hook configures the primary, and ec2net asks IMDS about eth1 alone. By
// the addresses on the primary's interface, its rules and table come with eth1, and go with
// it.
func TestPrimaryWithoutFacts(t *testing.T) {
	rules := []string{"pref 32765 from 10.0.0.10 lookup 1000 protocol 236", "pref 32765 from all fwmark 0x3e8/0x3fff lookup 1000 protocol 236"}
	primarys := func(m *machine) (found []string) {
		for _, r := range m.rulesNow(t) {
			if strings.HasPrefix(r, "pref 32765 ") {
				found = append(found, r)
			}
		}
		return found
	}
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		m.addRoute(t, "eth0", everywhere, "10.0.0.1", 0, unix.RTPROT_STATIC)
		_, err := m.converge(t.Context(), news{why: "test"})
		check(t, err)
		same(t, "rules of a primary that is alone", m.rulesNow(t), nil)

		check(t, m.Add(t.Context(), "eth1"))
		same(t, "rules", primarys(m), rules)
		same(t, "table", m.table(t, 1000), []string{"10.0.0.0/24 dev eth0 src 10.0.0.10 table 1000", "default via 10.0.0.1 dev eth0 table 1000"})
		m.log = nil
		check(t, m.RefreshAll(t.Context()))
		same(t, "rules with facts", primarys(m), rules)
		if !strings.Contains(m.logged(), "eth0: wrote /var/lib/ec2net/eth0.json") || strings.Contains(m.logged(), "eth0: ip r") {
			t.Errorf("the log:\n%s", m.logged())
		}

		check(t, m.Remove(t.Context(), "eth1"))
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkDel(l))
		_, err = m.converge(t.Context(), news{why: "test"})
		check(t, err)
		same(t, "rules when eth1 is gone", m.rulesNow(t), nil)
		same(t, "table when eth1 is gone", m.table(t, 1000), nil)
	})
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		m.Unmanaged = Patterns{"eth0"}
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "rules of a primary that is left alone", primarys(m), nil)
	})
}

// A route with the flag onlink also has it in the primary's table.
func TestPrimaryOnLink(t *testing.T) {
	onMachine(t, func(m *machine) {
		primaryTable(t, m)
		want := []string{"10.0.0.0/24 dev eth0 src 10.0.0.10 table 1000", "10.50.0.0/16 via 192.0.2.1 dev eth0 table 1000 onlink"}
		for _, reason := range []string{"BOUND", "RENEW"} {
			m.lease(t, "eth0", reason, "10.0.0.10")
			same(t, "table after "+reason, m.table(t, 1000), want)
		}
		m.log = nil
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "log", m.log, nil)
	})
}

// The kernel refuses one route: ec2net reports it, adds the others, and deletes one that
// main no longer has.
func TestPrimaryAddFails(t *testing.T) {
	onMachine(t, func(m *machine) {
		primaryTable(t, m)
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		l := m.linkNamed(t, "eth0")
		for _, r := range []plan.Route{
			{Table: 1000, Dst: netip.MustParsePrefix("10.60.0.0/16")},
			{Table: 254, Dst: netip.MustParsePrefix("10.70.0.0/16")},
			{Table: 254, Dst: netip.MustParsePrefix("10.80.0.0/16")},
		} {
			r.Link, r.Scope, r.Protocol = l.Index, unix.RT_SCOPE_LINK, unix.RTPROT_BOOT
			check(t, m.kernel.Apply(plan.AddRoute{Link: l, Route: r}))
		}
		m.Kernel = refuses{m.Kernel, "route add 10.70.0.0/16"}
		err := m.OnLease(t.Context(), Lease{Interface: "eth0", Reason: "RENEW", Address: addrs("10.0.0.10")[0]})
		if err == nil || !strings.Contains(err.Error(), "ip route add 10.70.0.0/16 dev eth0 table 1000: no buffer space available") {
			t.Errorf("%v", err)
		}
		same(t, "table", m.table(t, 1000), []string{"10.0.0.0/24 dev eth0 src 10.0.0.10 table 1000",
			"10.50.0.0/16 via 192.0.2.1 dev eth0 table 1000 onlink", "10.80.0.0/16 dev eth0 table 1000"})
	})
}

// refuses is a kernel that refuses changes with this text in their ip(8) line.
type refuses struct {
	Kernel
	word string
}

func (k refuses) Apply(c plan.Change) error {
	if strings.Contains(c.String(), k.word) {
		return unix.ENOBUFS
	}
	return k.Kernel.Apply(c)
}

// tableIn returns the routes of a table by an interface, with all their attributes.
func (m *machine) tableIn(t *testing.T, name string, table int) (routes []string) {
	t.Helper()
	l, err := m.netns.LinkByName(name)
	check(t, err)
	all, err := m.netns.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: table, LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	check(t, err)
	for _, r := range all {
		routes = append(routes, fmt.Sprintf("%v via %v src %v metric %d tos %d mtu %d initcwnd %d %s", r.Dst, r.Gw, r.Src, r.Priority, r.Tos, r.MTU, r.InitCwnd, r.Congctl))
	}
	slices.Sort(routes)
	return routes
}

// The primary's own table has main's routes by the primary, with all their attributes.
func TestPrimaryTableIsAsMain(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.withPrimaryTable(t)
		l, err := m.netns.LinkByName("eth0")
		check(t, err)
		route := func(dst string, gateway net.IP, more netlink.Route) *netlink.Route {
			more.LinkIndex, more.Dst, more.Gw = l.Attrs().Index, toIPNet(netip.MustParsePrefix(dst)), gateway
			return &more
		}
		was := route("0.0.0.0/0", net.IPv4(10, 0, 0, 1), netlink.Route{Priority: 100, Protocol: unix.RTPROT_DHCP, MTU: 1400, InitCwnd: 20, Congctl: "reno"})
		for _, r := range []*netlink.Route{
			was,
			route("10.7.0.0/16", net.IPv4(10, 0, 0, 7), netlink.Route{Protocol: unix.RTPROT_STATIC, MTU: 9001}),
			route("10.7.0.0/16", net.IPv4(10, 0, 0, 8), netlink.Route{Protocol: unix.RTPROT_STATIC, Tos: 0x10}),
		} {
			check(t, m.netns.RouteAdd(r))
		}
		asMain := func(what string) {
			t.Helper()
			want := m.tableIn(t, "eth0", unix.RT_TABLE_MAIN)
			same(t, what, m.tableIn(t, "eth0", 1000), want)
			m.log = nil
			m.lease(t, "eth0", "RENEW", "10.0.0.10")
			same(t, what+", log", m.log, nil)
		}
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		asMain("at first")

		// A route that main does not have goes, whoever made it.
		for _, by := range []netlink.RouteProtocol{unix.RTPROT_STATIC, unix.RTPROT_DHCP, unix.RTPROT_KERNEL} {
			check(t, m.netns.RouteAdd(route("10.8.0.0/16", net.IPv4(10, 0, 0, 7), netlink.Route{Table: 1000, Priority: int(by), Protocol: by})))
		}
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		asMain("with stale routes")

		// Gateway and MTU change: ec2net adds the new route before it deletes the old one.
		check(t, m.netns.RouteDel(was))
		was.Gw, was.MTU = net.IPv4(10, 0, 0, 2), 1300
		check(t, m.netns.RouteAdd(was))
		m.log = nil
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "log", m.log, []string{
			"eth0: ip route append default via 10.0.0.2 dev eth0 metric 100 table 1000 mtu 1300 initcwnd 20 (RENEW)",
			"eth0: ip route del default via 10.0.0.1 dev eth0 metric 100 table 1000 mtu 1400 initcwnd 20 (RENEW)"})
		asMain("by another gateway")
	})
}
