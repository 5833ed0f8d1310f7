package hooks

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// enslave makes an interface a port of a new bridge, bond or VRF.
func (m *machine) enslave(t *testing.T, name string, to netlink.Link) {
	t.Helper()
	if err := m.netns.LinkAdd(to); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("this kernel has no %s", to.Type())
	} else {
		check(t, err)
	}
	check(t, m.netns.LinkSetUp(to))
	l, err := m.netns.LinkByName(name)
	check(t, err)
	master, err := m.netns.LinkByName(to.Attrs().Name)
	check(t, err)
	check(t, m.netns.LinkSetMaster(l, master))
}

func masters() map[string]netlink.Link {
	a := netlink.LinkAttrs{Name: "over"}
	return map[string]netlink.Link{
		"bridge": &netlink.Bridge{LinkAttrs: a},
		"VRF":    &netlink.Vrf{LinkAttrs: a, Table: 77},
	}
}

// An ENI that has a master is left alone, whoever asks.
func TestPort(t *testing.T) {
	for kind, master := range masters() {
		t.Run(kind, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				m.enslave(t, "eth1", master)
				m.lease(t, "eth0", "BOUND", "10.0.0.10")
				var left *UnmanagedError
				if err := m.Add(t.Context(), "eth1"); !errors.As(err, &left) || !strings.Contains(err.Error(), "it belongs to over") || left.Hint() == "" {
					t.Errorf("add: %v", err)
				}
				m.lease(t, "eth1", "BOUND", "10.0.1.20")
				m.added = nil
				check(t, m.Scan(t.Context()))
				check(t, m.RefreshAll(t.Context()))
				same(t, "programs", m.ran, nil)
				same(t, "asked udev to add", m.added, []string{"eth2"})
				same(t, "addresses", m.addrsNow(t, "eth1"), nil)
				same(t, "rules", m.rulesNow(t), nil)
			})
		})
	}
}

// An ENI that is up gets a master: ec2net takes away its rules and addresses, says so
// once, and comes back when the master goes.
func TestBecomesPort(t *testing.T) {
	for kind, master := range masters() {
		t.Run(kind, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				m.enslave(t, "eth1", master)
				m.log, m.warned, m.ran = nil, nil, nil
				for range 2 {
					m.lease(t, "eth0", "RENEW", "10.0.0.10") // another one's event
					m.lease(t, "eth1", "RENEW", "10.0.1.20")
					check(t, m.RefreshAll(t.Context()))
				}
				same(t, "rules", m.rulesNow(t), nil)
				if addrs := m.addrsNow(t, "eth1"); slices.Contains(addrs, "10.0.1.21/32") {
					t.Errorf("addresses %q", addrs)
				}
				if err := m.Down(t.Context(), "eth1"); err == nil {
					t.Error("ec2ifdown takes down a port of somebody's")
				}
				same(t, "programs", m.ran, nil)
				if len(m.warned) != 1 || !strings.Contains(m.warned[0], "eth1: it belongs to over") {
					t.Errorf("warnings %q", m.warned)
				}

				l, err := m.netns.LinkByName("eth1")
				check(t, err)
				check(t, m.netns.LinkSetNoMaster(l))
				check(t, m.netns.LinkSetUp(l))
				m.lease(t, "eth0", "RENEW", "10.0.0.10")
				same(t, "rules without a master", m.rulesNow(t), readyRules)
				same(t, "addresses without a master", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.21/32"})
			})
		})
	}
}

// A port is unplugged: what is left of ec2net's goes.
func TestPortUnplugged(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.enslave(t, "eth1", masters()["bridge"])
		m.pull(t, "eth1")
		m.ran = nil
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		same(t, "rules", m.rulesNow(t), nil)
		same(t, "programs", m.ran, []string{"ifdown --force -i /run/ec2net/eth1.cfg eth1"})
		if m.file(t, notePath("eth1")) != "" {
			t.Error("there is still a note")
		}
	})
}

// An ENI moves into another network namespace while it is up, and comes back.
func TestIntoAnotherNamespace(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		here, err := os.Open("/proc/thread-self/ns/net")
		check(t, err)
		defer here.Close()
		check(t, unix.Unshare(unix.CLONE_NEWNET))
		there, err := os.Open("/proc/thread-self/ns/net")
		check(t, err)
		defer there.Close()
		inside, err := netlink.NewHandle()
		check(t, err)
		defer inside.Close()
		check(t, unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))

		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetNsFd(l, int(there.Fd())))
		m.warned = nil
		m.lease(t, "eth0", "RENEW", "10.0.0.10") // another one's event
		same(t, "rules", m.rulesNow(t), nil)
		check(t, m.RemoveIfGone(t.Context(), "eth1"))
		check(t, m.Scan(t.Context()))
		same(t, "warnings", m.warned, nil)
		same(t, "asked udev to add", m.added, []string{"eth2"})

		l, err = inside.LinkByName("eth1")
		check(t, err)
		check(t, inside.LinkSetNsFd(l, int(here.Fd())))
		ready(t, m)
		same(t, "rules when it is back", m.rulesNow(t), readyRules)
	})
}
