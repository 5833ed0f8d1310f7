package hooks

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/iproute"
	"ec2net/plan"
)

// Scan asks udev to add ENIs that are attached but not configured, and no others.
func TestScan(t *testing.T) {
	onMachine(t, func(m *machine) {
		scan := func(when string, want ...string) {
			t.Helper()
			m.added = nil
			check(t, m.Scan(t.Context()))
			same(t, when, m.added, want)
		}
		delete(m.vpc.enis, macs["eth2"]) // no ENI
		scan("attached, and nothing done", "eth0", "eth1")
		ready(t, m)
		scan("configured: the primary is known, too")
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetDown(l))
		scan("taken down by somebody else", "eth1")
		m.address(t, "eth1", "10.0.1.20/24")
		scan("up again, without the routes of its table", "eth1")
		check(t, m.Add(t.Context(), "eth1"))
		scan("with them")
		rules := m.rules(t)
		for _, k := range rules {
			if k.Priority == 1001 && k.Mark != 0 {
				check(t, m.kernel.Apply(plan.DelRule{Rule: k}))
			}
		}
		scan("without one of its rules", "eth1")
		check(t, m.Add(t.Context(), "eth1"))
		scan("with all of them")
		check(t, m.memory().clearNote("eth1"))
		scan("after a boot", "eth1")

		m.vpc.err, m.log = errors.New("IMDS is gone"), nil
		scan("what is known needs no IMDS", "eth1")
		if !strings.Contains(strings.Join(m.log, "\n"), "scan: IMDS is gone; looked only at known ENIs") {
			t.Errorf("log:\n%s", strings.Join(m.log, "\n"))
		}
		m.Unmanaged = Patterns{"eth1"}
		scan("kept from ec2net")
		m.Unmanaged, m.Replay = nil, func(string) error { return errors.New("no such file") }
		if err := m.Scan(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot ask udev to add eth1: no such file") {
			t.Errorf("%v", err)
		}
	})
}

// The lease of the primary leads to a scan, even if something else fails.
func TestScanAfterTrouble(t *testing.T) {
	onMachine(t, func(m *machine) {
		delete(m.vpc.enis, macs["eth2"])
		check(t, m.Add(t.Context(), "eth1"))
		check(t, m.Tree.Remove(notePath("eth1")))
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		for what, spoil := range map[string]func(){
			"an address is refused": func() {
				m.says(primaryMAC, func(e *facts.ENI) { e.IPv4 = addrs("10.0.0.10", "10.0.0.11") })
				m.Kernel = noAddr{m.Kernel}
			},
			"no facts of its own": func() {
				check(t, m.Tree.Remove(factsPath("eth0")))
				m.vpc.err = errors.New("gone")
			},
		} {
			spoil()
			m.added = nil
			m.OnLease(t.Context(), Lease{"eth0", "BOUND", netip.MustParseAddr("10.0.0.10")})
			same(t, what+": asked udev to add", m.added, []string{"eth1"})
		}
	})
}

type noAddr struct{ Kernel }

func (k noAddr) Apply(c plan.Change) error {
	if _, ok := c.(plan.AddAddr); ok {
		return unix.ENOBUFS
	}
	return k.Kernel.Apply(c)
}

// An ENI was attached while the primary had no address. Then the primary gets its address
// from an earlier lease (dhclient: TIMEOUT), or a static one (dhcpcd).
func TestScanAfterPrimary(t *testing.T) {
	for _, reason := range []string{"BOUND", "REBOOT", "TIMEOUT", "STATIC", "INFORM"} {
		onMachine(t, func(m *machine) {
			delete(m.vpc.enis, macs["eth2"])
			m.lease(t, "eth0", "BOUND", "10.0.0.10")
			ready(t, m)
			check(t, m.Remove(t.Context(), "eth1"))
			l, err := m.netns.LinkByName("eth0")
			check(t, err)
			check(t, m.netns.AddrDel(l, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("10.0.0.10/24"))}))
			m.ran, m.added = nil, nil
			check(t, m.Add(t.Context(), "eth1"))
			same(t, "programs", m.ran, nil)
			m.address(t, "eth0", "10.0.0.10/24")
			m.lease(t, "eth0", reason, "10.0.0.10")
			same(t, reason+": udev is asked to add", m.added, []string{"eth1"})
		})
	}
}

// An ENI of which nothing is known, under a name that another ENI had, waited for the primary.
func TestScanAfterPrimaryFindsNew(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		m.pull(t, "eth1")
		check(t, m.Remove(t.Context(), "eth1"))
		mac := facts.MAC{2, 0, 0, 0, 1, 3}
		m.says(mac, func(e *facts.ENI) {
			*e = facts.ENI{MAC: mac, ID: "eni-3", DeviceNumber: 1, PrimaryMAC: primaryMAC, IPv4: addrs("10.0.1.40"),
				Subnet: netip.MustParsePrefix("10.0.1.0/24")}
		})
		m.plug(t, "eth1", mac)
		m.added = nil
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		if !slices.Contains(m.added, "eth1") {
			t.Errorf("added %q", m.added)
		}
	})
}

// An image has the facts of another machine, whose primary is not attached here. ec2net
// finds this machine's primary, and leaves it as it is.
func TestScanWithFactsOfAnotherMachine(t *testing.T) {
	const elsewhere = "02:00:00:00:99:99"
	for what, files := range map[string][]string{
		// Before and after this machine's own, by name.
		"of its ENIs":    {"eth1", "eth5"},
		"of its primary": {"eth0"},
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				m.lease(t, "eth0", "BOUND", "10.0.0.10")
				check(t, m.Add(t.Context(), "eth2"))
				m.address(t, "eth2", "10.0.1.30/24")
				m.lease(t, "eth2", "BOUND", "10.0.1.30")
				for _, name := range files {
					e := facts.ENI{MAC: facts.MAC{2, 0, 0, 0, 0x99, 5}, ID: "eni-99", DeviceNumber: 5,
						IPv4: addrs("10.9.1.20"), Subnet: netip.MustParsePrefix("10.9.1.0/24")}
					if e.PrimaryMAC, e.Primary = mustParseMAC(t, elsewhere), name == "eth0"; e.Primary {
						e.MAC, e.DeviceNumber = e.PrimaryMAC, 0
					}
					e, err := facts.Renamed(e, name, m.Numbers)
					check(t, err)
					_, err = m.memory().keep(e)
					check(t, err)
				}
				delete(m.vpc.enis, macs["eth1"]) // no ENI of this machine
				for range 2 {
					m.added = nil
					check(t, m.Scan(t.Context()))
					same(t, "asked udev to add", m.added, nil)
				}
				var primary *PrimaryError
				m.ran = nil
				if err := m.Add(t.Context(), "eth0"); !errors.As(err, &primary) {
					t.Errorf("add: %v", err)
				}
				if err := m.Remove(t.Context(), "eth0"); !errors.As(err, &primary) {
					t.Errorf("remove: %v", err)
				}
				same(t, "programs", m.ran, nil)
				if !slices.Contains(m.rulesNow(t), group1001) {
					t.Errorf("rules:\n%s", strings.Join(m.rulesNow(t), "\n"))
				}
			})
		})
	}
}

func mustParseMAC(t *testing.T, text string) facts.MAC {
	t.Helper()
	mac, err := facts.ParseMAC(text)
	check(t, err)
	return mac
}

// Scan finds what is missing of an ENI that is up, and an ENI that is gone and was not
// taken down: its unit may have failed.
func TestScanLooksAtAll(t *testing.T) {
	onMachine(t, func(m *machine) {
		delete(m.vpc.enis, macs["eth2"]) // no ENI
		ready(t, m)
		for what, disturb := range map[string]func(plan.Link){
			"is attached and lacks routes": func(plan.Link) { check(t, m.kernel.Apply(plan.DelRoute{Route: unreachable1001})) },
			"is attached and has a strict rp_filter": func(l plan.Link) {
				check(t, os.WriteFile("/proc/sys/net/ipv4/conf/eth1/rp_filter", []byte("1"), 0))
			},
			"is attached and has IPv6 on": func(plan.Link) { m.setIPv6(t, "eth1", true) },
		} {
			m.added, m.log = nil, nil
			disturb(m.linkNamed(t, "eth1"))
			check(t, m.Scan(t.Context()))
			same(t, what, m.added, []string{"eth1"})
			if !strings.Contains(m.logged(), what) {
				t.Errorf("log:\n%s\nwant: %s", m.logged(), what)
			}
			check(t, m.Add(t.Context(), "eth1"))
			m.added = nil
			check(t, m.Scan(t.Context()))
			same(t, what+", and mended", m.added, nil)
		}

		m.added = nil
		m.pull(t, "eth1")
		check(t, m.Scan(t.Context()))
		same(t, "taken down", m.gone, []string{"eth1"})
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		m.gone = nil
		check(t, m.Scan(t.Context()))
		same(t, "taken down again", m.gone, nil)
	})
}

var unreachable1001 = plan.Route{Kind: iproute.Unreachable, Table: 1001, Dst: netip.MustParsePrefix("0.0.0.0/0"), Metric: 65535, Protocol: 3}
