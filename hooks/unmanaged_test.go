package hooks

import (
	"errors"
	"strings"
	"testing"

	"ec2net/facts"
)

// EC2NET_UNMANAGED names an ENI by its name, MAC or id; set while it is up, the ENI stays
// as it is, and its detach removes what ec2net has made.
func TestUnmanagedWhileUp(t *testing.T) {
	for _, word := range []string{"eth1", "eth[1]", "02:00:00:00:01:20", "02:00:00:00:01:2", "eni-1"} {
		onMachine(t, func(m *machine) {
			if word == "02:00:00:00:01:2" {
				if _, err := ParsePatterns(word); err == nil {
					t.Errorf("%s is no MAC", word)
				}
				return
			}
			two(t, m)
			rules := m.rulesNow(t)
			patterns, err := ParsePatterns(word)
			check(t, err)
			m.Unmanaged = patterns
			m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
			m.lease(t, "eth1", "RENEW", "10.0.1.20")
			m.lease(t, "eth2", "RENEW", "10.0.1.30")
			check(t, m.RefreshAll(t.Context()))
			same(t, word+": rules", m.rulesNow(t), rules)
			same(t, word+": addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})

			m.pull(t, "eth1")
			m.ran, m.gone = nil, nil
			check(t, m.Scan(t.Context())) // udev's event was lost
			same(t, word+": to be taken down", m.gone, []string{"eth1"})
			check(t, m.RemoveIfGone(t.Context(), "eth1"))
			for _, r := range m.rulesNow(t) {
				if strings.Contains(r, "1001") {
					t.Errorf("%s: after the detach: %s", word, r)
				}
			}
			same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1"})

			m.plug(t, "eth1", macs["eth1"])
			m.ran = nil
			var left *UnmanagedError
			if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) || !strings.Contains(err.Error(), "EC2NET_UNMANAGED names") {
				t.Errorf("%s: add: %v", word, err)
			}
			same(t, "programs", m.ran, nil)
		})
	}
}

// EC2NET_UNMANAGED names an ENI by its id, of which nothing is known yet.
func TestUnmanagedByID(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Unmanaged, _ = ParsePatterns("eni-2")
		var left *UnmanagedError
		if err := m.Add(t.Context(), "eth2"); !errors.As(err, &left) || !strings.Contains(err.Error(), "EC2NET_UNMANAGED names eni-2") {
			t.Errorf("add: %v", err)
		}
		m.address(t, "eth2", "10.0.1.30/24")
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		same(t, "programs", m.ran, nil)
		same(t, "rules", m.rulesNow(t), nil)
		same(t, "the stanza", []string{m.file(t, "/etc/network/interfaces.d/eth2.cfg")}, []string{""})
	})
}

// With EC2NET_ADDRESSES=no ec2net neither gives nor takes an address, and rules are as
// ever.
func TestNoAddresses(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.NoAddresses = true
		ready(t, m)
		same(t, "rules", m.rulesNow(t), readyRules)
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24"})
		m.address(t, "eth1", "10.0.1.21/32") // the cluster manager
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20") })
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "addresses when it has moved away", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		m.says(primaryMAC, func(e *facts.ENI) { e.IPv4 = addrs("10.0.0.10", "10.0.0.11") })
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "addresses of the primary", m.addrsNow(t, "eth0"), []string{"10.0.0.10/24"})
	})
}
