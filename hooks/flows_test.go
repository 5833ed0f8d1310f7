package hooks

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// dropping is a kernel that records which connections ec2net drops, and first calls a
// function.
type dropping struct {
	Kernel
	drops  []string
	before func()
}

func (k *dropping) Apply(c plan.Change) error {
	if _, ok := c.(plan.DropFlows); ok {
		if k.before != nil {
			k.before()
		}
		k.drops = append(k.drops, c.Of()+": "+c.String())
	}
	return k.Kernel.Apply(c)
}

// An ENI that is taken down leaves no connection with its mark, even if its facts are
// lost: later packets of a container in such a connection would leave by another ENI.
func TestDownDropsFlows(t *testing.T) {
	for what, lose := range map[string]func(*testing.T, *machine){
		"all is known": func(*testing.T, *machine) {},
		"facts lost":   func(t *testing.T, m *machine) { check(t, m.Tree.Remove(factsPath("eth1"))) },
		"facts no JSON": func(t *testing.T, m *machine) {
			m.put(t, factsPath("eth1"), "\x00")
		},
		"facts of another ENI": func(t *testing.T, m *machine) {
			m.put(t, factsPath("eth1"), strings.Replace(m.file(t, factsPath("eth1")), "02:00:00:00:01:20", "02:00:00:00:09:09", 1))
		},
		"another base": func(_ *testing.T, m *machine) { m.Numbers.Base = 3000 },
		"unplugged":    func(t *testing.T, m *machine) { m.pull(t, "eth1") },
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				lose(t, m)
				k := &dropping{Kernel: m.Kernel}
				// After ifdown: until then packets that come in get the mark.
				k.before = func() {
					if len(m.ran) != 1 || !strings.HasPrefix(m.ran[0], "ifdown ") {
						t.Errorf("ran %q before", m.ran)
					}
				}
				m.Kernel, m.ran = k, nil
				check(t, m.Remove(t.Context(), "eth1"))
				if !slices.Contains(k.drops, "eth1: conntrack -D --mark 0x3e9/0x3fff") {
					t.Errorf("dropped %q", k.drops)
				}
			})
		})
	}
}

// If another ENI has the number now, the connections with its mark stay.
func TestDownSparesFlows(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.put(t, notePath("eth2"), strings.Replace(m.file(t, notePath("eth1")), "02:00:00:00:01:20", "02:00:00:00:07:07", 1))
		k := &dropping{Kernel: m.Kernel}
		m.Kernel = k
		check(t, m.Remove(t.Context(), "eth2"))
		same(t, "dropped", k.drops, []string{"eth2: conntrack -D --mark 0x3ea/0x3fff"})
	})
}

// The same with real connections.
func TestDownDropsRealFlows(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		for i, mark := range []uint32{0x3e9, 0x83e9, 0x3ea, 0} {
			m.connect(t, uint16(1000+i), mark)
		}
		if got := m.connections(t); len(got) != 4 {
			t.Fatalf("marks of connections: %#x", got)
		}
		check(t, m.Tree.Remove(factsPath("eth1")))
		check(t, m.Remove(t.Context(), "eth1"))
		if got := m.connections(t); !slices.Equal(got, []uint32{0, 0x3ea}) {
			t.Errorf("marks of connections: %#x", got)
		}
	})
}

// connect adds a connection to conntrack.
func (m *machine) connect(t *testing.T, port uint16, mark uint32) {
	t.Helper()
	from, to := net.IPv4(10, 7, 0, 1), net.IPv4(10, 0, 1, 20)
	flow := &netlink.ConntrackFlow{FamilyType: unix.AF_INET, Mark: mark, TimeOut: 600,
		Forward: netlink.IPTuple{SrcIP: from, DstIP: to, SrcPort: port, DstPort: 80, Protocol: unix.IPPROTO_UDP},
		Reverse: netlink.IPTuple{SrcIP: to, DstIP: from, SrcPort: 80, DstPort: port, Protocol: unix.IPPROTO_UDP}}
	err := netlink.ConntrackCreate(netlink.ConntrackTable, netlink.FAMILY_V4, flow)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("the kernel has no connection tracking")
	}
	check(t, err)
}

// connections returns the marks of the connections that conntrack knows.
func (m *machine) connections(t *testing.T) (marks []uint32) {
	t.Helper()
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	check(t, err)
	for _, f := range all {
		marks = append(marks, f.Mark)
	}
	slices.Sort(marks)
	return marks
}
