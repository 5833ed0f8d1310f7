package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/kernel"
	"ec2net/lab/unshared"
	"ec2net/plan"
)

func imdsSays(status int) error {
	return fmt.Errorf("asked: %w", &facts.IMDSError{HTTP: status})
}

// slow is an IMDS that does not answer before the caller gives up.
type slow struct {
	Source
	err  error // if set, its answer, at once
	asks int
}

func (s *slow) ENI(ctx context.Context, _ string, _ facts.MAC, _ facts.Numbers) (facts.ENI, error) {
	s.asks++
	if s.err != nil {
		return facts.ENI{}, s.err
	}
	<-ctx.Done()
	return facts.ENI{}, ctx.Err()
}

// still is a kernel in which nothing changes.
type still struct {
	Kernel
	links []plan.Link
}

func (k still) Look(scope func([]plan.Link) plan.Scope) (plan.State, error) {
	scope(k.links)
	return plan.State{Links: k.links}, nil
}

// How many questions IMDS gets, and how long a caller waits, at most.
func TestAskBounds(t *testing.T) {
	link := plan.Link{Name: "eth1", Index: 2, MAC: macs["eth1"]}
	for _, c := range []struct {
		name string
		imds *slow
		asks int
		wait time.Duration
	}{
		{"says nothing", &slow{}, 5, hotplugIMDS},
		{"says no at once", &slow{err: imdsSays(http.StatusServiceUnavailable)}, 9, hotplugIMDS},
		{"switched off", &slow{err: imdsSays(http.StatusForbidden)}, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &Host{Source: c.imds, Kernel: still{links: []plan.Link{link}}, Numbers: facts.DefaultNumbers, Tree: emptyTree(t), Log: quiet{}}
				l, err := h.look(news{name: "eth1"})
				check(t, err)
				start := time.Now()
				if _, err := h.askUntilComplete(t.Context(), l); err == nil {
					t.Error("no error")
				}
				if wait := time.Since(start); c.imds.asks > c.asks || wait > c.wait || wait < c.wait/2 {
					t.Errorf("asked %d times in %v, want %d in %v", c.imds.asks, wait, c.asks, c.wait)
				}
			})
		})
	}
}

// TestHookBounds measures how long a hook and scan wait for an IMDS that does not answer.
func TestHookBounds(t *testing.T) {
	unshared.Need(t)
	for _, c := range []struct {
		name  string
		known bool
		call  func(*testing.T, *world) error
		wait  time.Duration
	}{
		{"BOUND", true, leaseOf("BOUND"), bootIMDS},
		{"BOUND, new", false, leaseOf("BOUND"), leaseIMDS},
		{"RENEW", true, leaseOf("RENEW"), leaseIMDS},
		{"RELEASE", true, leaseOf("RELEASE"), 0},
		{"scan", true, func(t *testing.T, w *world) error { return w.Scan(t.Context()) }, leaseIMDS},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, realKernel, nil)
				if w.plugged(t, "eth1"); c.known {
					check(t, w.Add(t.Context(), "eth1"))
				}
				w.vpc.err = errSilent
				start := time.Now()
				check(t, c.call(t, w))
				if wait := time.Since(start); wait != c.wait {
					t.Errorf("waited %v, want %v", wait, c.wait)
				}
			})
		})
	}
}

// During the wait for IMDS, the device goes, or another one gets its name.
func TestAskGone(t *testing.T) {
	link := plan.Link{Name: "eth1", Index: 2, MAC: macs["eth1"]}
	for _, now := range [][]plan.Link{nil, {{Name: "eth1", Index: 3, MAC: macs["eth1"]}}, {{Name: "eth1", Index: 2, MAC: macs["eth2"]}}} {
		synctest.Test(t, func(t *testing.T) {
			imds := &slow{err: imdsSays(http.StatusNotFound)}
			h := &Host{Source: imds, Kernel: still{links: []plan.Link{link}}, Numbers: facts.DefaultNumbers, Tree: emptyTree(t), Log: quiet{}}
			l, err := h.look(news{name: "eth1"})
			check(t, err)
			h.Kernel = still{links: now}
			_, err = h.askUntilComplete(t.Context(), l)
			var gone *kernel.GoneError
			if errors.As(err, &gone) != (now == nil) || errors.Is(err, errReplaced) != (now != nil) || imds.asks != 1 {
				t.Errorf("%v: %v, asked %d times", now, err, imds.asks)
			}
		})
	}
}

// ec2net does not ask a container or a VPN in the place of IMDS.
func TestWayToIMDS(t *testing.T) {
	imds := netip.MustParseAddr("169.254.169.254")
	onMachine(t, func(m *machine) {
		m.IMDS = imds
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "docker9"
		check(t, m.netns.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		bridge := attrs.Name
		check(t, CheckWay(m.kernel, imds)) // no route at all: the question itself fails

		eth0, err := m.netns.LinkByName("eth0")
		check(t, err)
		check(t, m.netns.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: []byte{10, 0, 0, 1}}))
		check(t, CheckWay(m.kernel, imds))

		ready(t, m)
		m.address(t, bridge, "169.254.169.1/24")
		var way *WayError
		if err := CheckWay(m.kernel, imds); !errors.As(err, &way) || way.By != bridge {
			t.Errorf("by a bridge: %v", err)
		}
		if err := CheckWay(m.kernel, netip.MustParseAddr("192.0.2.1")); err != nil {
			t.Errorf("an administrator's endpoint: %v", err)
		}
		m.vpc.asks, m.log = 0, nil
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if m.vpc.asks != 0 || !strings.Contains(strings.Join(m.log, "\n"), "using the remembered facts") {
			t.Errorf("asked %d times:\n%s", m.vpc.asks, strings.Join(m.log, "\n"))
		}
		same(t, "rules", m.rulesNow(t), readyRules)

		l, err := m.netns.LinkByName(bridge)
		check(t, err)
		check(t, m.netns.AddrDel(l, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("169.254.169.1/24"))}))
		check(t, CheckWay(m.kernel, imds))

		// Packets to IMDS have no TOS.
		other := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(netip.MustParsePrefix("169.254.169.254/32")), Tos: 0x10, Scope: netlink.SCOPE_LINK}
		check(t, m.netns.RouteAdd(other))
		check(t, CheckWay(m.kernel, imds))
		check(t, m.netns.RouteDel(other))

		// A VPN's rule goes before main.
		m.address(t, bridge, "192.0.2.1/24")
		m.foreign(t, iprule.Rule{Priority: 500, Table: 77, SuppressPrefixLength: -1, SuppressGroup: -1})
		check(t, m.netns.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(netip.MustParsePrefix("0.0.0.0/0")), Table: 77}))
		if err := CheckWay(m.kernel, imds); !errors.As(err, &way) || way.By != bridge {
			t.Errorf("by a rule: %v", err)
		}
		check(t, m.netns.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(netip.MustParsePrefix("0.0.0.0/0")), Table: 77}))
		check(t, CheckWay(m.kernel, imds))

		// The address is the machine's own, where a container publishes port 80.
		m.address(t, bridge, "169.254.169.254/32")
		if err := CheckWay(m.kernel, imds); !errors.As(err, &way) || way.By != bridge {
			t.Errorf("the machine's own: %v", err)
		}
		check(t, m.netns.AddrDel(l, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("169.254.169.254/32"))}))
		lo, err := m.netns.LinkByName("lo")
		check(t, err)
		check(t, m.netns.LinkSetUp(lo))
		m.address(t, "lo", "169.254.169.254/32")
		if err := CheckWay(m.kernel, imds); !errors.As(err, &way) || way.By != "lo" {
			t.Errorf("on lo: %v", err)
		}
		check(t, m.netns.AddrDel(lo, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("169.254.169.254/32"))}))

		// A bridge on top of the primary counts as the primary.
		m.address(t, bridge, "169.254.169.1/24")
		check(t, m.netns.LinkSetHardwareAddr(l, primaryMAC[:]))
		check(t, CheckWay(m.kernel, imds))
	})
}

// An answer that is about another ENI does not count.
func TestAnswerOfAnother(t *testing.T) {
	t.Run("another's content", func(t *testing.T) {
		onMachine(t, func(m *machine) {
			ready(t, m)
			before := m.file(t, factsPath("eth1"))
			for _, change := range []func(*facts.ENI){
				func(e *facts.ENI) { e.ID, e.IPv4 = "eni-2", addrs("10.0.1.30") },
				func(e *facts.ENI) { e.Primary, e.DeviceNumber, e.PrimaryMAC = true, 0, e.MAC },
				func(e *facts.ENI) { e.IPv4, e.Subnet = nil, netip.Prefix{} },
			} {
				truth := m.vpc.enis[macs["eth1"]]
				m.says(macs["eth1"], change)
				m.log = nil
				m.lease(t, "eth1", "RENEW", "10.0.1.20")
				same(t, "rules", m.rulesNow(t), readyRules)
				same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
				if m.file(t, factsPath("eth1")) != before || !strings.Contains(m.logged(), "cannot trust") {
					t.Errorf("log:\n%s", m.logged())
				}
				m.vpc.enis[macs["eth1"]] = truth
			}
		})
	})
	t.Run("a new ENI with a known id", func(t *testing.T) {
		onMachine(t, func(m *machine) {
			ready(t, m)
			truth := m.vpc.enis[macs["eth2"]]
			m.says(macs["eth2"], func(e *facts.ENI) { e.ID = "eni-1" })
			m.vpc.asked = func() {
				if m.vpc.asks > 3 { // the first was for eth1's lease
					m.vpc.enis[macs["eth2"]] = truth
				}
			}
			check(t, m.Add(t.Context(), "eth2"))
		})
	})
}

// ec2net recovers from a wrong first answer: the leased address is in the next one.
func TestWrongAtFirst(t *testing.T) {
	onMachine(t, func(m *machine) {
		truth := m.vpc.enis[macs["eth1"]]
		m.says(macs["eth1"], func(e *facts.ENI) { e.ID, e.IPv4 = "eni-2", addrs("10.0.1.90") })
		check(t, m.Add(t.Context(), "eth1"))
		m.vpc.enis[macs["eth1"]] = truth
		m.address(t, "eth1", "10.0.1.20/24")
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		same(t, "rules", sortedRules(m.rulesNow(t)), sortedRules(readyRules))
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		check(t, m.Add(t.Context(), "eth2"))
	})
}

func sortedRules(rules []string) []string { return slices.Sorted(slices.Values(rules)) }

// A route to IMDS leads to a container, by a veth without a bridge.
func TestWayByVeth(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.IMDS = netip.MustParseAddr("169.254.169.254")
		addVeth(t, m.netns, "ve-x", facts.MAC{2, 0, 0, 9, 9, 9})
		peer, err := m.netns.LinkByName("p-ve-x")
		check(t, err)
		check(t, m.netns.LinkSetUp(peer))
		m.address(t, "ve-x", "169.254.10.1/16")
		var way *WayError
		here, err := m.Host.look(news{name: "eth1"})
		check(t, err)
		if err := m.checkWay(here); !errors.As(err, &way) || way.By != "ve-x" {
			t.Errorf("way: %v", err)
		}
		start := time.Now()
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if time.Since(start) > leaseIMDS {
			t.Error("waited")
		}
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}

// A dual-stack ENI is attached, and IMDS knows its IPv6 address first.
func TestIPv6First(t *testing.T) {
	onMachine(t, func(m *machine) {
		whole := m.vpc.enis[macs["eth1"]].Clone()
		whole.IPv6, whole.IPv6Subnets = addrs("2001:db8::20"), []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}
		part := whole.Clone()
		part.IPv4, part.Subnet = nil, netip.Prefix{}
		m.vpc.enis[macs["eth1"]] = part
		time.AfterFunc(300*time.Millisecond, func() {
			m.vpc.mu.Lock()
			defer m.vpc.mu.Unlock()
			m.vpc.enis[macs["eth1"]] = whole
		})
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifup eth1"})
	})
}

// An ENI has another name after a reboot, and IMDS is switched off.
func TestRenamedWithoutIMDS(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Remove(t.Context(), "eth1"))
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetDown(l))
		check(t, m.netns.LinkSetName(l, "eth3"))
		m.vpc.err, m.ran = imdsSays(403), nil
		check(t, m.Add(t.Context(), "eth3"))
		same(t, "programs", m.ran, []string{"ifup eth3"})
	})
}

func emptyTree(t *testing.T) *disk.Tree {
	t.Helper()
	tree, err := disk.OpenTree(t.TempDir(), false)
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}
