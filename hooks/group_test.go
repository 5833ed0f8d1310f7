package hooks

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/iprule"
	"ec2net/plan"
)

// leads returns the interface by which the kernel sends a packet.
func (m *machine) leads(t *testing.T, to string, how netlink.RouteGetOptions) string {
	t.Helper()
	routes, err := m.netns.RouteGetWithOptions(net.ParseIP(to), &how)
	check(t, err)
	l, err := m.netns.LinkByIndex(routes[0].LinkIndex)
	check(t, err)
	return l.Attrs().Name
}

// A VPN has a rule behind ec2net's, for a network to which main leads by another tunnel. With
// eth1 attached the rule decides as before about packets without an address of eth1, also
// about the primary's answers to the VPN's hosts (Tailscale's rule 5270, wg-quick's 32765). A
// default route in two halves (OpenVPN's) decides as before about the rest. The answers of an
// ENI to a bridge leave by the bridge.
func TestGroupRulesAreNarrow(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		for _, name := range []string{"old", "vpn", "bridge"} {
			addVeth(t, m.netns, name, [6]byte{2, 9, 9, 9, 9, name[0]})
		}
		m.address(t, "old", "192.168.1.1/32")
		m.address(t, "vpn", "192.168.2.1/32")
		m.address(t, "bridge", "172.30.0.1/16")
		network := netip.MustParsePrefix("10.99.0.0/16")
		m.addRoute(t, "old", network.String(), "", 0, unix.RTPROT_STATIC)
		vpn := m.linkNamed(t, "vpn")
		check(t, m.kernel.Apply(plan.AddRoute{Link: vpn, Route: plan.Route{Table: 77, Link: vpn.Index, Dst: network, Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_STATIC}}))
		m.foreign(t, iprule.Rule{Priority: 20000, Table: 77, SuppressPrefixLength: -1, SuppressGroup: -1})
		asBefore := func(when string) {
			t.Helper()
			for _, from := range []net.IP{nil, {192, 168, 1, 1}, {192, 168, 2, 1}, {172, 30, 0, 1}, {10, 0, 0, 10}} {
				if by := m.leads(t, "10.99.0.9", netlink.RouteGetOptions{SrcAddr: from}); by != "vpn" {
					t.Errorf("%s: packets from %v to %v leave by %s", when, from, network, by)
				}
			}
		}
		asBefore("without eth1")
		m.addRoute(t, "old", "128.0.0.0/1", "", 0, unix.RTPROT_STATIC)
		ready(t, m)
		asBefore("with eth1")
		for _, how := range []netlink.RouteGetOptions{{}, {SrcAddr: net.IP{10, 0, 0, 10}}, {Mark: 1000}} {
			if by := m.leads(t, "198.51.100.7", how); by != "old" {
				t.Errorf("packets to 198.51.100.7, %+v, leave by %s", how, by)
			}
		}
		// The primary's answer to a host in eth1's subnet, and in a network behind eth1.
		m.addRoute(t, "eth0", everywhere, "10.0.0.1", 100, unix.RTPROT_DHCP)
		m.addRoute(t, "eth1", "10.40.0.0/16", "10.0.1.7", 0, unix.RTPROT_STATIC)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		for _, to := range []string{"10.0.1.99", "10.40.0.9"} {
			if by := m.leads(t, to, netlink.RouteGetOptions{SrcAddr: net.IP{10, 0, 0, 10}}); by != "eth0" {
				t.Errorf("the primary's answer to %s leaves by %s", to, by)
			}
		}
		for _, how := range []netlink.RouteGetOptions{{SrcAddr: net.IP{10, 0, 1, 20}}, {SrcAddr: net.IP{10, 0, 0, 10}}, {Mark: 1001}, {Mark: 1000}} {
			if by := m.leads(t, "172.30.0.9", how); by != "bridge" {
				t.Errorf("packets to the bridge, %+v, leave by %s", how, by)
			}
		}
	})
}

// The group rule of version 0.1 goes once those for the ENIs' packets are there. No other
// rule goes with it, wherever it stands among them.
func TestOldGroupRule(t *testing.T) {
	old := iprule.Rule{Priority: 999, Table: iprule.MainTable, Protocol: iprule.Protocol, SuppressPrefixLength: 1, SuppressGroup: 1000}
	for _, first := range []bool{true, false} {
		onMachine(t, func(m *machine) {
			ready(t, m)
			if first {
				for _, r := range m.rules(t) {
					if r.Priority == 999 {
						check(t, m.kernel.Apply(plan.DelRule{Rule: r}))
					}
				}
			}
			m.foreign(t, old)
			m.onLogged = func(string) {
				if rules := m.rulesNow(t); !slices.Contains(rules, old.String()) && (!slices.Contains(rules, group1001) || !slices.Contains(rules, groupMark)) {
					t.Errorf("it has gone too early; there are %q", rules)
				}
			}
			m.lease(t, "eth1", "RENEW", "10.0.1.20")
			want, got := slices.Sorted(slices.Values(readyRules)), slices.Sorted(slices.Values(m.rulesNow(t)))
			same(t, "rules", got, want)
		})
	}
}
