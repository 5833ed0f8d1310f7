package hooks

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/iprule"
)

// While a hook waits for IMDS, its ENI is detached, and another one may come up under the
// name. The late answer is about the first ENI.
func TestLateAnswer(t *testing.T) {
	for what, change := range map[string]func(*facts.ENI){
		"as before": func(*facts.ENI) {},
		"another":   func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") },
	} {
		meanwhile := func(m *machine, do func()) {
			m.vpc.asked = func() {
				m.vpc.asked = nil
				m.vpc.mu.Unlock() // the next steps ask IMDS themselves
				defer m.vpc.mu.Lock()
				m.pull(t, "eth1")
				check(t, m.RemoveIfGone(t.Context(), "eth1"))
				do()
			}
			m.says(macs["eth1"], change)
			_ = m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: "RENEW", Address: netip.MustParseAddr("10.0.1.20")})
		}
		t.Run(what+", replaced", func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				other := facts.MAC{2, 0, 0, 0, 7, 7}
				e := m.vpc.enis[macs["eth1"]].Clone()
				e.MAC, e.ID, e.IPv4 = other, "eni-7", addrs("10.0.1.70")
				m.vpc.enis[other] = e
				meanwhile(m, func() {
					m.plug(t, "eth1", other)
					check(t, m.Add(t.Context(), "eth1"))
					m.address(t, "eth1", "10.0.1.70/24")
					m.lease(t, "eth1", "BOUND", "10.0.1.70")
				})
				same(t, "rules", m.rulesNow(t), []string{group1001, groupMark, from1001("10.0.1.70"), mark1001})
				same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.70/24"})
				if got := m.file(t, factsPath("eth1")); !strings.Contains(got, "eni-7") {
					t.Errorf("facts of the first: %s", got)
				}
			})
		})
		t.Run(what+", removed", func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				meanwhile(m, func() {})
				same(t, "rules", m.rulesNow(t), nil)
			})
		})
	}
}

// EC2 has given an ENI an address, and it works; but ec2net could not write the new facts
// (it was killed, or the disk is full). Then IMDS does not answer: the address stays.
func TestOldFacts(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		before := m.file(t, "/var/lib/ec2net/eth1.json")
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.21", "10.0.1.22") })
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		m.put(t, "/var/lib/ec2net/eth1.json", before) // as if ec2net had not written the new ones
		if !slices.Contains(m.rulesNow(t), from1001("10.0.1.22")) {
			t.Error("no rule")
		}
		m.vpc.err = errors.New("silent")
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if got := m.rulesNow(t); !slices.Contains(got, from1001("10.0.1.22")) {
			t.Errorf("the rule of an address that worked is gone:\n%s\naddresses %q", strings.Join(got, "\n"), m.addrsNow(t, "eth1"))
		}
	})
}

// "The leased address never loses its rule": nor if udev says "add" again.
func TestLeaseKeepsRule(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.AddrDel(l, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("10.0.1.20/24"))}))
		m.address(t, "eth1", "10.0.1.50/24")
		m.lease(t, "eth1", "BOUND", "10.0.1.50")
		if !slices.Contains(m.rulesNow(t), from1001("10.0.1.50")) {
			t.Error("no rule")
		}
		m.vpc.err = errors.New("silent")
		check(t, m.Add(t.Context(), "eth1"))
		if !slices.Contains(m.rulesNow(t), from1001("10.0.1.50")) {
			t.Errorf("rules:\n%s\naddresses %q", strings.Join(m.rulesNow(t), "\n"), m.addrsNow(t, "eth1"))
		}
	})
}

// A device goes while ec2net waits for the lock.
func TestGoneBeforeLock(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		unlock, err := m.lock(t.Context(), "kernel")
		check(t, err)
		done := make(chan error)
		go func() {
			done <- m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: "RENEW", Address: netip.MustParseAddr("10.0.1.20")})
		}()
		m.pull(t, "eth1")
		delete(m.vpc.enis, macs["eth1"])
		unlock()
		<-done
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)
	})
}

// A rule of an earlier template goes, even if the ENI still has its address.
func TestOtherShape(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.foreign(t, iprule.Rule{Priority: 1001, Table: 1001, From: netip.MustParsePrefix("10.0.1.20/32"),
			To: netip.MustParsePrefix("10.9.0.0/16"), Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1})
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "rules", m.rulesNow(t), readyRules)
	})
}
