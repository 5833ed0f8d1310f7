package hooks

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// An ENI has IPv6 addresses, which ec2net does not configure. ec2net says so once when the
// ENI comes up, or when EC2 gives it the first ones later, and in the status.
func TestTellsIPv6(t *testing.T) {
	onMachine(t, func(m *machine) {
		const says = "eth1: EC2 has given it IPv6, which ec2net does not configure yet: "
		told := func() (lines []string) {
			for _, line := range m.log {
				if strings.HasPrefix(line, says) {
					lines = append(lines, strings.TrimPrefix(line, says))
				}
			}
			m.log = nil
			return lines
		}
		give := func(addrs []netip.Addr, prefixes ...netip.Prefix) {
			for _, name := range []string{"eth0", "eth1"} { // it says nothing of the primary's
				e := m.vpc.enis[macs[name]].Clone()
				e.IPv6, e.IPv6Prefixes, e.IPv6Subnets = addrs, prefixes, []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}
				m.vpc.enis[macs[name]] = e
			}
		}
		renew := func() {
			m.lease(t, "eth0", "RENEW", "10.0.0.10")
			m.lease(t, "eth1", "RENEW", "10.0.1.20")
		}
		give(addrs("2001:db8::20"))
		check(t, m.Add(t.Context(), "eth1"))
		m.address(t, "eth1", "10.0.1.20/24")
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		same(t, "attached", told(), []string{"2001:db8::20"})
		renew()
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "renewed, and added again", told(), nil)
		s := m.statusNow(t, "eth1")
		if want := strings.TrimPrefix(says, "eth1: ") + "2001:db8::20"; s.Differs || len(s.ENIs) != 1 || s.ENIs[0].State != StateOK || s.ENIs[0].Why != want {
			t.Errorf("status %+v", s)
		}

		give(nil)
		renew()
		same(t, "none any more", told(), nil)
		give(addrs("2001:db8::21"), netip.MustParsePrefix("2001:db8:0:0:1::/80"))
		renew()
		renew()
		same(t, "given later", told(), []string{"2001:db8::21 2001:db8:0:0:1::/80"})

		check(t, m.Remove(t.Context(), "eth1"))
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "brought up again", told(), []string{"2001:db8::21 2001:db8:0:0:1::/80"})
		if s := m.statusNow(t, "eth0"); s.ENIs[0].Why != "" {
			t.Errorf("status of the primary %+v", s)
		}
	})
}

// If somebody switches IPv6 on, the next event switches it off again, except on the primary,
// and on an ENI whose stanza has something else of IPv6, which is an administrator's.
func TestKeepsIPv6Off(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		off := func() (names []string) {
			links, err := m.Kernel.Links()
			check(t, err)
			for _, name := range []string{"eth0", "eth1"} {
				if l, _ := named(links, name); l.NoIPv6 {
					names = append(names, name)
				}
			}
			return names
		}
		same(t, "without IPv6", off(), []string{"eth1"})
		m.setIPv6(t, "eth1", true)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "without IPv6, after a renewal", off(), []string{"eth1"})
		if !slices.Contains(m.log, "eth1: sysctl -w net.ipv6.conf.eth1.disable_ipv6=1 (RENEW)") {
			t.Errorf("log:\n%s", m.logged())
		}

		const cfg = "/etc/network/interfaces.d/eth1.cfg"
		text, err := m.Tree.Read(cfg)
		check(t, err)
		_, err = m.Tree.Write(cfg, append(text, "iface eth1 inet6 auto\n"...))
		check(t, err)
		m.setIPv6(t, "eth1", true)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "without IPv6, by an administrator's stanza", off(), nil)
	})
}
