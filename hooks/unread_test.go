package hooks

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/stack/ifupdown/interfaces"
)

// unreadable puts a folder in the place of a file.
func (m *machine) unreadable(t *testing.T, file string) {
	t.Helper()
	check(t, m.Tree.Remove(file))
	check(t, m.Tree.MakeDir(file))
}

// told checks that an error names the unreadable file, and has the status of a fault of the
// machine.
func told(t *testing.T, what string, err error, file string) {
	t.Helper()
	if !errors.Is(err, disk.ErrNotRegular) || !strings.Contains(err.Error(), file) || fault.Of(err) != fault.System {
		t.Errorf("%s: %v, status %d", what, err, fault.Of(err))
	}
}

// Without a readable cfg file ec2net does not know the owner: it assumes neither that there
// is another one, nor that there is none.
func TestUnreadableCfg(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Add(t.Context(), "eth2"))
		m.address(t, "eth2", "10.0.1.30/24")
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		cfg := interfaces.Path("eth1")
		text := m.file(t, cfg)
		m.unreadable(t, cfg)
		before := m.rulesNow(t)

		m.ran, m.log = nil, nil
		told(t, "hotplug add", m.Add(t.Context(), "eth1"), cfg)
		told(t, "hotplug remove", m.Remove(t.Context(), "eth1"), cfg)
		told(t, "hotplug remove --if-gone", m.RemoveIfGone(t.Context(), "eth1"), cfg)
		told(t, "down", m.Down(t.Context(), "eth1"), cfg)
		told(t, "refresh", m.Refresh(t.Context(), "eth1"), cfg)
		for _, reason := range []string{"BOUND", "RENEW", "EXPIRE"} {
			told(t, reason, m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: reason, Address: addrs("10.0.1.20")[0]}), cfg)
		}
		same(t, "programs", m.ran, nil)
		same(t, "rules", m.rulesNow(t), before)
		if m.file(t, notePath("eth1")) == "" {
			t.Error("counts as taken down")
		}

		// The events of other ENIs leave it alone too.
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetGroup(l, 0))
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		if group := m.linkNamed(t, "eth1").Group; group != 0 {
			t.Errorf("eth1 is in group %d", group)
		}

		// The client's last event counts as soon as the file is readable again.
		check(t, m.Tree.Remove(cfg))
		m.put(t, cfg, text)
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		if slices.Contains(m.rulesNow(t), from1001("10.0.1.20")) {
			t.Errorf("the lease has ended; rules:\n%s", strings.Join(m.rulesNow(t), "\n"))
		}
	})
}

// A scan reports the unreadable file, with a status, and looks at the others.
func TestScanUnreadable(t *testing.T) {
	for what, spoil := range map[string]func(*testing.T, *machine){
		"known": ready,
		"new":   func(*testing.T, *machine) {},
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				m.lease(t, "eth0", "BOUND", "10.0.0.10")
				spoil(t, m)
				cfg := interfaces.Path("eth1")
				m.unreadable(t, cfg)
				m.added = nil
				err := m.Scan(t.Context())
				told(t, "scan", err, cfg)
				if err != nil && !strings.Contains(err.Error(), "cannot tell who configures eth1") {
					t.Errorf("%v", err)
				}
				same(t, "asked udev to add", m.added, []string{"eth2"})
			})
		})
	}
}

// The file becomes unreadable while ec2net takes the ENI down.
func TestUnreadableMeanwhile(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		cfg := interfaces.Path("eth1")
		m.onLogged = func(line string) {
			if strings.Contains(line, "ifdown done") {
				m.unreadable(t, cfg)
			}
		}
		told(t, "remove", m.Remove(t.Context(), "eth1"), cfg)
		if m.file(t, notePath("eth1")) == "" {
			t.Error("counts as taken down")
		}
		check(t, m.Tree.Remove(cfg))
		m.onLogged = nil
		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)
	})
}

// An unreadable note or lease does not count as none.
func TestUnreadableSinceBoot(t *testing.T) {
	for _, file := range []string{notePath("eth1"), leasePath("eth1")} {
		onMachine(t, func(m *machine) {
			ready(t, m)
			m.unreadable(t, file)
			before := m.rulesNow(t)
			told(t, "remove", m.Remove(t.Context(), "eth1"), file)
			told(t, "RENEW", m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: "RENEW", Address: addrs("10.0.1.20")[0]}), file)
			same(t, "rules", m.rulesNow(t), before)
		})
	}
}

// The list of moved addresses is unreadable: ec2net does not overwrite it, and does
// everything else.
func TestUnreadableMoved(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.unreadable(t, movedPath)
		m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
		told(t, "RENEW", m.OnLease(t.Context(), Lease{Interface: "eth1", Reason: "RENEW", Address: addrs("10.0.1.20")[0]}), movedPath)
		if !slices.Contains(m.rulesNow(t), from1001("10.0.1.22")) || strings.Contains(m.file(t, factsPath("eth1")), "10.0.1.22") {
			t.Errorf("facts %s, rules:\n%s", m.file(t, factsPath("eth1")), strings.Join(m.rulesNow(t), "\n"))
		}
		check(t, m.Remove(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)
	})
}
