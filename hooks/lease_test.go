package hooks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/kernel"
)

// ready configures eth1 by hotplug, and gives it its lease.
func ready(t *testing.T, m *machine) {
	t.Helper()
	check(t, m.Add(t.Context(), "eth1"))
	m.address(t, "eth1", "10.0.1.20/24")
	m.lease(t, "eth1", "BOUND", "10.0.1.20")
}

var readyRules = []string{group1001, groupMark, from1001("10.0.1.20"), from1001("10.0.1.21"), mark1001}

func TestLease(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		same(t, "rules", m.rulesNow(t), readyRules)
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		links, err := m.kernel.Links()
		check(t, err)
		for _, name := range []string{"eth0", "eth1", "eth2"} {
			want := 1000
			if name == "eth2" {
				want = 0 // not known yet
			}
			if l, _ := named(links, name); l.Group != want {
				t.Errorf("%s is in group %d", name, l.Group)
			}
		}
		for _, end := range []string{"EXPIRE", "FAIL", "RELEASE", "STOP", "NAK", "STOPPED", "DEPARTED"} {
			m.lease(t, "eth1", end, "")
			same(t, "rules after "+end, m.rulesNow(t), nil)
			for _, begin := range []string{"BOUND", "RENEW", "REBIND", "REBOOT", "TIMEOUT", "INFORM", "STATIC"} {
				m.lease(t, "eth1", end, "")
				m.lease(t, "eth1", begin, "10.0.1.20")
				same(t, "rules after "+begin, m.rulesNow(t), readyRules)
			}
		}
	})
}

// Before the first packet of an ENI, every known ENI is in the group: the group rule
// relies on it.
func TestGroupComesFirst(t *testing.T) {
	onMachine(t, func(m *machine) {
		check(t, m.Add(t.Context(), "eth1"))
		links, err := m.kernel.Links()
		check(t, err)
		for name, want := range map[string]int{"eth0": 1000, "eth1": 1000, "eth2": 0} {
			if l, _ := named(links, name); l.Group != want {
				t.Errorf("%s is in group %d", name, l.Group)
			}
		}
	})
}

// A rule at an ENI's number goes if it matches on more than ec2net's rules do, even if it
// is otherwise a wanted one.
func TestOddRule(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		odd := netlink.NewRule()
		odd.Priority, odd.Table, odd.Protocol, odd.IPProto = 1001, 1001, iprule.Protocol, 6
		odd.Src = &net.IPNet{IP: net.IP{10, 0, 1, 20}, Mask: net.CIDRMask(32, 32)}
		check(t, m.netns.RuleAdd(odd))
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "rules", m.rulesNow(t), readyRules)
		rules := m.rules(t)
		for _, k := range rules {
			if k.Odd() {
				t.Errorf("%v is left", k)
			}
		}
	})
}

// Fifty renewals change nothing, send the kernel at most four requests each, and leave an
// administrator's rules alone.
func TestRenewals(t *testing.T) {
	onMachine(t, func(m *machine) {
		admins := []iprule.Rule{
			{Priority: 500, Mark: 1, MarkMask: 0xff, Table: 77, SuppressPrefixLength: -1, SuppressGroup: -1},
			{Priority: 1001, From: netip.MustParsePrefix("10.9.0.0/16"), Table: 78, SuppressPrefixLength: -1, SuppressGroup: -1},
			{Priority: 1500, Table: 1001, SuppressPrefixLength: -1, SuppressGroup: -1},
			{Priority: 999, Table: 79, SuppressPrefixLength: -1, SuppressGroup: -1},
		}
		m.foreign(t, admins...)
		ready(t, m)
		before := m.rulesNow(t)
		if len(before) != len(admins)+len(readyRules) {
			t.Errorf("rules:\n%s", strings.Join(before, "\n"))
		}
		m.log = nil
		for range 50 {
			m.asked.Store(0)
			m.lease(t, "eth1", "RENEW", "10.0.1.20")
			if m.asked.Load() > 4 {
				t.Fatalf("%d netlink requests", m.asked.Load())
			}
		}
		same(t, "rules", m.rulesNow(t), before)
		same(t, "log", m.log, nil)
		m.lease(t, "eth1", "RELEASE", "")
		if got := m.rulesNow(t); len(got) != len(admins) {
			t.Errorf("rules:\n%s", strings.Join(got, "\n"))
		}
	})
}

// Unwanted rules of an ENI go, whoever made them, and take no wanted one with them, even
// though RTM_DELRULE matches loosely.
func TestStaleRules(t *testing.T) {
	onMachine(t, func(m *machine) {
		stale := func(r iprule.Rule) iprule.Rule {
			r.Priority, r.Table = 1001, 1001
			r.SuppressGroup = -1
			return r
		}
		m.foreign(t,
			stale(iprule.Rule{SuppressPrefixLength: -1}),
			stale(iprule.Rule{Mark: 1001, MarkMask: 0x3fff, SuppressPrefixLength: -1}),
			stale(iprule.Rule{From: netip.MustParsePrefix("10.0.1.99/32"), Protocol: 236, SuppressPrefixLength: -1}),
			stale(iprule.Rule{From: netip.MustParsePrefix("10.0.1.20/32"), Protocol: 4, SuppressPrefixLength: -1}),
			stale(iprule.Rule{From: netip.MustParsePrefix("10.0.1.20/32"), Protocol: 236, SuppressPrefixLength: 3}))
		ready(t, m)
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}

// EC2 has assigned and removed addresses since: ec2net changes only the difference.
func TestAddressesFollow(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.address(t, "eth1", "10.0.1.99/24") // an administrator's own
		eni := m.vpc.enis[macs["eth1"]]
		eni.IPv4 = addrs("10.0.1.20", "10.0.1.22", "10.0.1.23")
		m.vpc.enis[macs["eth1"]] = eni
		m.asked.Store(0)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		// Four to look, and four more since the answer is new; six changes: two addresses
		// and two rules to add, one of each to remove; and four to look again after the
		// removals.
		if m.asked.Load() != 4+4+6+4 {
			t.Errorf("%d netlink requests", m.asked.Load())
		}
		same(t, "rules", m.rulesNow(t), []string{group1001, groupMark, from1001("10.0.1.20"), mark1001, from1001("10.0.1.22"), from1001("10.0.1.23")})
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.22/32", "10.0.1.23/32", "10.0.1.99/24"})
	})
}

// Two ENIs are in the primary's subnet: main's routes through the primary stay first,
// whichever lease is bound last, and whichever metric a client chooses.
func TestMainPrefersPrimary(t *testing.T) {
	for _, metric := range []int{0, 1002} {
		onMachine(t, func(m *machine) {
			eni := m.vpc.enis[macs["eth1"]]
			eni.Subnet, eni.IPv4 = netip.MustParsePrefix("10.0.0.0/24"), addrs("10.0.0.20")
			m.vpc.enis[macs["eth1"]] = eni
			defaultRoute := func(name string, metric int) {
				t.Helper()
				l, err := m.netns.LinkByName(name)
				check(t, err)
				check(t, m.netns.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 0, 0, 1), Priority: metric}))
			}
			first := func(dst string) string {
				t.Helper()
				links, err := m.kernel.Links()
				check(t, err)
				routes := m.routes(t)
				for _, r := range routes { // in the order in which the kernel looks
					if r.Table == 254 && r.Dst.String() == dst {
						for _, l := range links {
							if l.Index == r.Link {
								return l.Name
							}
						}
					}
				}
				return ""
			}
			check(t, m.Add(t.Context(), "eth1"))
			l, err := m.netns.LinkByName("eth0")
			check(t, err)
			address, err := netlink.ParseAddr("10.0.0.10/24")
			check(t, err)
			check(t, m.netns.AddrDel(l, address))
			m.address(t, "eth1", "10.0.0.20/24")
			defaultRoute("eth1", 1001)
			m.lease(t, "eth1", "BOUND", "10.0.0.20")
			m.address(t, "eth0", "10.0.0.10/24") // bound again, so that its route is the newer one
			defaultRoute("eth0", metric)
			m.lease(t, "eth0", "BOUND", "10.0.0.10")
			for _, dst := range []string{"10.0.0.0/24", "0.0.0.0/0"} {
				if got := first(dst); got != "eth0" {
					t.Errorf("metric %d: %s leads to %q first", metric, dst, got)
				}
			}
			m.log = nil
			m.lease(t, "eth1", "RENEW", "10.0.0.20")
			m.lease(t, "eth0", "RENEW", "10.0.0.10")
			same(t, "log", m.log, nil)
		})
	}
}

// The kernel drops the routes of an ENI's table together with its last address. The next
// lease restores them.
func TestTableComesBack(t *testing.T) {
	onMachine(t, func(m *machine) {
		table := func() (dsts []string) {
			t.Helper()
			routes := m.routes(t)
			for _, r := range routes {
				if r.Table == 1001 {
					dsts = append(dsts, strings.TrimPrefix(fmt.Sprintf("%v %v", r.Kind, r.Dst), "unicast "))
				}
			}
			slices.Sort(dsts)
			return dsts
		}
		want := []string{"0.0.0.0/0", "10.0.1.0/24", "unreachable 0.0.0.0/0"}
		ready(t, m)
		same(t, "table", table(), want)
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		all, err := m.netns.AddrList(l, netlink.FAMILY_V4)
		check(t, err)
		for _, a := range all {
			check(t, m.netns.AddrDel(l, &a))
		}
		m.lease(t, "eth1", "EXPIRE", "")
		same(t, "table without an address", table(), []string{"unreachable 0.0.0.0/0"})
		m.vpc.err = errors.New("gone") // the remembered facts are enough
		m.address(t, "eth1", "10.0.1.20/24")
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		same(t, "table", table(), want)
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}

// An administrator's routes stay as they are; the ENI's own table gets a copy.
func TestAdministratorsRoutes(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		route := func(name string, dst string, gw net.IP, metric int) {
			t.Helper()
			l, err := m.netns.LinkByName(name)
			check(t, err)
			check(t, m.netns.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(netip.MustParsePrefix(dst)), Gw: gw, Priority: metric, Protocol: 4}))
		}
		route("eth1", "10.50.0.0/16", net.IPv4(10, 0, 1, 7), 100)
		route("eth0", "10.50.0.0/16", net.IPv4(10, 0, 0, 7), 200)
		route("eth1", "0.0.0.0/0", net.IPv4(10, 0, 1, 1), 10)
		route("eth0", "0.0.0.0/0", net.IPv4(10, 0, 0, 1), 500)
		m.log = nil
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "log", m.log, []string{"eth1: ip route add 10.50.0.0/16 via 10.0.1.7 dev eth1 metric 100 table 1001 proto 236 (RENEW of eth0)"})
	})
}

// An ENI was attached while the primary had no address: at the primary's lease ec2net asks
// udev to add it.
func TestPrimaryComesUp(t *testing.T) {
	onMachine(t, func(m *machine) {
		delete(m.vpc.enis, macs["eth2"])
		ready(t, m)
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		same(t, "added again", m.added, nil)
		check(t, m.memory().clearNote("eth1"))
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "added again", m.added, nil)
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		same(t, "added again", m.added, []string{"eth1"})
	})
}

// IMDS does not answer: ec2net uses the remembered facts, and removes nothing.
func TestIMDSGone(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.vpc.err = errors.New("IMDS at http://169.254.169.254: no answer in time")
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "rules", m.rulesNow(t), readyRules)
		m.lease(t, "eth1", "EXPIRE", "")
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		same(t, "rules", m.rulesNow(t), readyRules)
		if log := strings.Join(m.log, "\n"); !strings.Contains(log, "eth1: IMDS at http://169.254.169.254: no answer in time; using the remembered facts") {
			t.Errorf("log:\n%s", log)
		}

		// The facts are of another device that had the name: ec2net uses the leased address
		// alone.
		other := m.vpc.enis[macs["eth1"]]
		other.MAC, other.Name = facts.MAC{2, 0, 0, 0, 9, 9}, "eth1"
		e, err := facts.Renamed(other, "eth1", facts.DefaultNumbers)
		check(t, err)
		_, err = m.memory().keep(e)
		check(t, err)
		m.lease(t, "eth1", "EXPIRE", "")
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		if got := m.rulesNow(t); !slices.Contains(got, from1001("10.0.1.20")) || slices.Contains(got, from1001("10.0.1.21")) {
			t.Errorf("rules:\n%s", strings.Join(got, "\n"))
		}
	})
}

// The leased address keeps its rule, even if the answer of IMDS does not have it.
func TestLeaseKeepsItsRule(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		eni := m.vpc.enis[macs["eth1"]]
		eni.IPv4 = addrs("10.0.1.77")
		m.vpc.enis[macs["eth1"]] = eni
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "rules", m.rulesNow(t), []string{group1001, groupMark, from1001("10.0.1.20"), mark1001, from1001("10.0.1.77")})
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.77/32"})
	})
}

// The primary gets addresses and its group, but no rules; later without IMDS too.
func TestLeaseOfPrimary(t *testing.T) {
	onMachine(t, func(m *machine) {
		eni := m.vpc.enis[primaryMAC]
		eni.IPv4 = addrs("10.0.0.10", "10.0.0.11")
		m.vpc.enis[primaryMAC] = eni
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		same(t, "rules", m.rulesNow(t), nil)
		same(t, "addresses", m.addrsNow(t, "eth0"), []string{"10.0.0.10/24", "10.0.0.11/32"})
		m.vpc.err = errors.New("gone")
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		m.lease(t, "eth0", "EXPIRE", "")
		same(t, "addresses", m.addrsNow(t, "eth0"), []string{"10.0.0.10/24", "10.0.0.11/32"})
	})
}

// ec2net does nothing for an interface of another owner, or for a reason that means
// nothing.
func TestLeaseOfOthers(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.address(t, "eth2", "10.0.1.30/24") // an ENI without a cfg file of ec2net
		admins := iprule.Rule{Priority: 1002, Table: 1002, SuppressPrefixLength: -1, SuppressGroup: -1}
		m.foreign(t, admins)
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		m.lease(t, "p-eth2", "BOUND", "10.0.1.31")
		m.lease(t, "eth2", "EXPIRE", "")
		check(t, m.Remove(t.Context(), "eth2"))
		same(t, "rules", m.rulesNow(t), []string{admins.String()})
		same(t, "programs", m.ran, nil)
		same(t, "log", m.log, nil)
		m.vpc.asks = 0
		m.asked.Store(0)
		for _, reason := range []string{"NOCARRIER", "CARRIER", "PREINIT", "TEST", "BOUND6", "EXPIRE6", "ROUTERADVERT", "whatever"} {
			m.lease(t, "eth1", reason, "10.0.1.20")
		}
		if m.asked.Load() != 0 || m.vpc.asks != 0 {
			t.Errorf("%d netlink requests and %d of IMDS for nothing", m.asked.Load(), m.vpc.asks)
		}
		var gone *kernel.GoneError
		if err := m.OnLease(t.Context(), Lease{Interface: "eth9", Reason: "BOUND"}); !errors.As(err, &gone) {
			t.Errorf("%v", err)
		}
	})
}

// Whatever a client puts into the environment: no panic, and only safe values.
func FuzzLeaseEnvironment(f *testing.F) {
	f.Add("eth1", "BOUND", "10.0.1.20")
	f.Add("../x", "bound;id", "10.0.1.20/24")
	f.Add("eth1", "RENEW6", "fe80::1%$(id)")
	f.Fuzz(func(t *testing.T, iface, reason, address string) {
		env := map[string]string{"interface": iface, "reason": reason, "new_ip_address": address}
		l, err := LeaseFromEnvironment(func(name string) string { return env[name] })
		if err != nil {
			return
		}
		if l.Address.IsValid() && !l.Address.Is4() {
			t.Errorf("%+v", l)
		}
		// OnLease ignores a name that CheckName refuses.
		if facts.CheckName(l.Interface) == nil && (path.Dir(factsPath(l.Interface)) != stateDir || strings.ContainsAny(l.Interface, " .;$\n")) {
			t.Errorf("%+v", l)
		}
	})
}
