package hooks

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/stack"
)

const awsConfig = `{"name": "aws-cni", "plugins": [{"name": "aws-cni", "type": "aws-cni"}]}`

// leftToPods fails unless ec2net leaves all ENIs alone, whoever asks.
func (m *machine) leftToPods(t *testing.T, what string) {
	t.Helper()
	m.ran, m.added = nil, nil
	for how, err := range map[string]error{"add": m.Add(t.Context(), "eth1"), "ec2ifup": m.Up(t.Context(), "eth1")} {
		var left *UnmanagedError
		if !errors.As(err, &left) || !strings.Contains(err.Error(), "gives ENIs to pods") || !strings.Contains(left.Hint(), "rm /var/lib/ec2net/pods") {
			t.Errorf("%s: %s: %v", what, how, err)
		}
	}
	m.says(primaryMAC, func(e *facts.ENI) { e.IPv4 = addrs("10.0.0.10", "10.0.0.11") }) // a pod's
	m.lease(t, "eth0", "BOUND", "10.0.0.10")
	m.lease(t, "eth1", "BOUND", "10.0.1.20")
	check(t, m.RefreshAll(t.Context()))
	check(t, m.Scan(t.Context()))
	same(t, what+": programs", m.ran, nil)
	same(t, what+": asked udev to add", m.added, nil)
	same(t, what+": addresses of the primary", m.addrsNow(t, "eth0"), []string{"10.0.0.10/24"})
	same(t, what+": addresses of the pods' ENI", m.addrsNow(t, "eth1"), nil)
	for _, r := range m.rulesNow(t) {
		if strings.Contains(r, "protocol 236") {
			t.Errorf("%s: rule %s", what, r)
		}
	}
}

// A Kubernetes node whose ENIs are for pods: ec2net knows it by the agent's rule or by the
// configuration of its plugin, says so once, and knows it after a reboot, when neither is
// there, until a person says otherwise.
func TestPods(t *testing.T) {
	for what, node := range map[string]func(*testing.T, *machine){
		"rule": func(t *testing.T, m *machine) {
			rule := stack.VPCCNI
			rule.SuppressPrefixLength, rule.SuppressGroup = -1, -1
			m.foreign(t, rule)
		},
		"configuration": func(t *testing.T, m *machine) { m.put(t, "/etc/cni/net.d/10-aws.conflist", awsConfig) },
		"Cilium's rule": func(t *testing.T, m *machine) {
			m.foreign(t, iprule.Rule{Priority: 109, Mark: 0x80, MarkMask: 0x80, Table: 254, SuppressPrefixLength: -1, SuppressGroup: -1})
		},
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				node(t, m)
				m.leftToPods(t, "at first")
				said := slices.DeleteFunc(slices.Clone(m.warned), func(w string) bool { return !strings.Contains(w, "leaving all ENIs alone, also after a reboot") })
				if len(said) != 1 || !strings.Contains(said[0], "rm /var/lib/ec2net/pods") {
					t.Errorf("warnings %q", m.warned)
				}
				m.reboot(t)
				check(t, m.Tree.Remove("/etc/cni/net.d/10-aws.conflist"))
				m.leftToPods(t, "after a reboot")

				check(t, m.Tree.Remove(podsPath)) // a person says otherwise
				m.lease(t, "eth0", "RENEW", "10.0.0.10")
				ready(t, m)
				same(t, "rules", m.rulesNow(t), readyRules)
				same(t, "addresses of the primary", m.addrsNow(t, "eth0"), []string{"10.0.0.10/24", "10.0.0.11/32"})
			})
		})
	}
}

// A node becomes one whose ENIs are for pods: an ENI that is up stays as it is, gets no
// pod's address, and its detach removes what ec2net has made.
func TestPodsLater(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.put(t, "/etc/cni/net.d/10-aws.conflist", awsConfig)
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		check(t, m.RefreshAll(t.Context()))
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		same(t, "rules", m.rulesNow(t), readyRules)
		m.pull(t, "eth1")
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		same(t, "rules after the detach", m.rulesNow(t), nil)
	})
}

// If ec2net cannot tell whether ENIs are for pods, nothing comes up, nothing gets an
// address, and what is up keeps its rules.
func TestPodsUnread(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Tree.MakeDir("/etc/cni/net.d/10-aws.conflist"))
		if err := m.Add(t.Context(), "eth2"); err == nil || !strings.Contains(err.Error(), "cannot tell whether ENIs are for pods") {
			t.Errorf("add: %v", err)
		}
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
		if !slices.Contains(m.rulesNow(t), from1001("10.0.1.20")) {
			t.Errorf("rules %q", m.rulesNow(t))
		}
		same(t, "programs", m.ran, []string{"ifup eth1"})
	})
}
