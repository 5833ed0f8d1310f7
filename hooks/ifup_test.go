package hooks

import (
	"context"
	"testing"
	"time"

	"ec2net/facts"
)

// A damaged note does not take an ENI down.
func TestNoteDamaged(t *testing.T) {
	for _, text := range []string{"", "\x00\x00", "02:00:00:00:01:20"} {
		onMachine(t, func(m *machine) {
			ready(t, m)
			check(t, m.Tree.Remove(notePath("eth1")))
			m.put(t, notePath("eth1"), text)
			m.ran = nil
			check(t, m.Add(t.Context(), "eth1"))
			same(t, "programs", m.ran, []string{"ifup eth1"})
			same(t, "rules", m.rulesNow(t), readyRules)
		})
	}
}

// ifupdown counts an interface as up that somebody has taken down without ifdown.
func TestCountedAsUp(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.put(t, "/run/network/ifstate", "lo=lo\neth1=eth1\n")
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetDown(l))
		m.ran = nil
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1", "ifup eth1"})
	})
}

// Ubuntu's dhclient waits five minutes for a lease, and ifup may take longer.
func TestIfupOnUbuntu(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.put(t, "/etc/dhcp/dhclient.conf", "timeout 300;\n")
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if deadline, ok := ctx.Deadline(); program == "ifup" && ok && time.Until(deadline) < 5*time.Minute {
				t.Errorf("ifup has %v", time.Until(deadline))
			}
			return run(ctx, program, args...)
		}
		check(t, m.Add(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifup eth1"})
	})
}

// Another device gets the name while ifup runs for the first one.
func TestReplacedDuringIfup(t *testing.T) {
	onMachine(t, func(m *machine) {
		other := facts.MAC{2, 0, 0, 0, 7, 7}
		e := m.vpc.enis[macs["eth1"]].Clone()
		e.MAC, e.ID, e.IPv4 = other, "eni-7", addrs("10.0.1.70")
		m.vpc.enis[other] = e
		run, once := m.Run, false
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if err := run(ctx, program, args...); err != nil || program != "ifup" || once {
				return err
			}
			once = true
			m.pull(t, "eth1")
			m.plug(t, "eth1", other)
			return nil
		}
		check(t, m.Add(t.Context(), "eth1"))
		check(t, m.RemoveIfGone(t.Context(), "eth1")) // the first one's event
		same(t, "programs", m.ran, []string{"ifup eth1", "ifdown --force -i /run/ec2net/eth1.cfg eth1", "ifup eth1"})
		same(t, "rules", m.rulesNow(t), []string{group1001, groupMark, from1001("10.0.1.70"), mark1001})
	})
}
