package hooks

import (
	"errors"
	"testing"

	"ec2net/facts"
	"ec2net/plan"
)

// The cfg file is gone, without which ifdown does nothing.
func TestCfgRemoved(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Tree.Remove("/etc/network/interfaces.d/eth1.cfg"))
		m.ran = nil
		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1"})
		same(t, "rules", m.rulesNow(t), nil)
		if cfg, _ := m.Tree.Read("/etc/network/interfaces.d/eth1.cfg"); cfg != nil {
			t.Error("the file is back")
		}
	})
}

// The "add" of the device that has the name now may have come too early.
func TestRemovedAfterReplaced(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.pull(t, "eth1")
		m.plug(t, "eth1", facts.MAC{2, 0, 0, 0, 7, 7})
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		same(t, "asked udev to add", m.added, []string{"eth1"})
	})
}

// That device has gone meanwhile, too: its own "remove" follows.
func TestRemovedAfterReplacedAndGone(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.pull(t, "eth1")
		m.plug(t, "eth1", facts.MAC{2, 0, 0, 0, 7, 7})
		noDevice := errors.New("open /sys/class/net/eth1/uevent: no such file or directory")
		m.Replay = func(string) error { return noDevice }
		if err := m.RemoveIfGone(t.Context(), "eth1"); !errors.Is(err, noDevice) {
			t.Errorf("the device is there: %v", err)
		}
		check(t, m.memory().setNote(plan.Link{Name: "eth1", MAC: macs["eth1"], Index: 77}, 1001))
		m.Replay = func(string) error {
			m.pull(t, "eth1")
			return noDevice
		}
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
	})
}
