package hooks

import (
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ec2net/facts"
	"ec2net/plan"
)

// two brings eth1 and eth2 up.
func two(t *testing.T, m *machine) {
	t.Helper()
	ready(t, m)
	check(t, m.Add(t.Context(), "eth2"))
	m.address(t, "eth2", "10.0.1.30/24")
	m.lease(t, "eth2", "BOUND", "10.0.1.30")
}

// Version 0.1 has brought an ENI up: there are a note and facts, but no file of its lease.
// Its address keeps its rule at events of other ENIs, and its own first event writes the
// lease.
func TestUpgradedFromBeforeLeases(t *testing.T) {
	onMachine(t, func(m *machine) {
		two(t, m)
		for _, name := range []string{"eth0", "eth1", "eth2"} {
			check(t, m.Tree.Remove(leasePath(name)))
		}
		before := m.rulesNow(t)
		m.vpc.err = errLate
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), before)
		// IMDS no longer lists the leased address.
		m.vpc.err = nil
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.22") })
		check(t, m.Refresh(t.Context(), "eth1"))
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		if !slices.Contains(m.rulesNow(t), from1001("10.0.1.20")) {
			t.Errorf("rules:\n%s", strings.Join(m.rulesNow(t), "\n"))
		}
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		l, err := m.memory().lease("eth1")
		check(t, err)
		if l.Addr != addrs("10.0.1.20")[0] {
			t.Errorf("remembered %+v", l)
		}
	})
}

// A remembered lease is that of one device under one name: not that of another device
// that gets the name, nor that of the same ENI once it was attached again.
func TestLeaseOfAnotherDevice(t *testing.T) {
	for what, replace := range map[string]func(*testing.T, *machine){
		"another device": func(t *testing.T, m *machine) {
			m.pull(t, "eth1")
			m.rename(t, "eth2", "eth1")
		},
		"the same, attached again": func(t *testing.T, m *machine) {
			m.pull(t, "eth1")
			m.plug(t, "eth1", macs["eth1"])
			m.setUp(t, "eth1")
		},
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				two(t, m)
				m.lease(t, "eth0", "BOUND", "10.0.0.10")
				replace(t, m)
				for _, r := range m.rules(t) {
					if r.Priority == 1001 {
						check(t, m.kernel.Apply(plan.DelRule{Rule: r}))
					}
				}
				l := m.linkNamed(t, "eth1")
				remembered, err := m.memory().lease("eth1")
				check(t, err)
				if remembered == (plan.Lease{}) || remembered.Of(l) {
					t.Errorf("%+v is the lease of %+v", remembered, l)
				}
				m.lease(t, "eth0", "RENEW", "10.0.0.10") // an event of another one
				if slices.Contains(m.rulesNow(t), from1001("10.0.1.20")) {
					t.Errorf("rules:\n%s", strings.Join(m.rulesNow(t), "\n"))
				}
			})
		})
	}
}

// ec2net remembers moved addresses across a reboot: the old owner, whose facts still have
// the address, does not take it back when IMDS does not answer.
func TestMovedBeforeReboot(t *testing.T) {
	onMachine(t, func(m *machine) {
		two(t, m)
		m.says(macs["eth2"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.30", "10.0.1.21") })
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		if text := m.file(t, movedPath); !strings.HasPrefix(text, "10.0.1.21 02:00:00:00:01:20 02:00:00:00:02:30") {
			t.Fatalf("%s", text)
		}
		m.reboot(t)
		m.vpc.err = errLate
		for name, addr := range map[string]string{"eth1": "10.0.1.20", "eth2": "10.0.1.30"} {
			check(t, m.Add(t.Context(), name))
			m.address(t, name, addr+"/24")
			m.lease(t, name, "BOUND", addr)
		}
		rules := m.rulesNow(t)
		if slices.Contains(rules, from1001("10.0.1.21")) || !slices.Contains(rules, "pref 1002 from 10.0.1.21 lookup 1002 protocol 236") {
			t.Errorf("rules:\n%s", strings.Join(rules, "\n"))
		}
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24"})
		// IMDS confirms it for the old owner: the move is over.
		m.vpc.err = nil
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20") })
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if text := m.file(t, movedPath); text != "" {
			t.Errorf("remembered:\n%s", text)
		}
	})
}

// reboot removes what does not survive one: /run, rules, and what the interfaces have.
func (m *machine) reboot(t *testing.T) {
	t.Helper()
	names, err := m.Tree.List(runDir)
	check(t, err)
	for _, name := range names {
		check(t, m.Tree.Remove(runDir+"/"+name))
	}
	for _, r := range m.rules(t) {
		if r.Priority != 0 && r.Priority < 32766 {
			check(t, m.kernel.Apply(plan.DelRule{Rule: r}))
		}
	}
	for _, name := range []string{"eth1", "eth2"} {
		l, err := m.netns.LinkByName(name)
		check(t, err)
		all, err := m.netns.AddrList(l, netlink.FAMILY_V4)
		check(t, err)
		for _, a := range all {
			check(t, m.netns.AddrDel(l, &a))
		}
		check(t, m.netns.LinkSetDown(l))
		check(t, m.netns.LinkSetGroup(l, 0))
	}
}
