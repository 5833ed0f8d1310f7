package hooks

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"ec2net/fault"
	"ec2net/plan"
)

func (m *machine) statusNow(t *testing.T, name string) *Status {
	t.Helper()
	s, err := m.Status(t.Context(), name)
	check(t, err)
	return s
}

func (s *Status) states() string {
	var all []string
	for _, e := range s.ENIs {
		text := e.Name + " " + string(e.State)
		if e.Why != "" {
			text += ": " + e.Why
		}
		all = append(all, text)
	}
	return strings.Join(all, "\n")
}

// withENIs runs a test on a machine with eth0 and eth1 up, and eth2 attached.
func withENIs(t *testing.T, test func(m *machine)) {
	t.Helper()
	onMachine(t, func(m *machine) {
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		check(t, m.Add(t.Context(), "eth1"))
		m.address(t, "eth1", "10.0.1.20/24")
		m.lease(t, "eth1", "BOUND", "10.0.1.20")
		test(m)
	})
}

const twoOK = "eth0 ok\neth1 ok"

// Whatever is disturbed, the status names it, and its commands, typed, mend it.
func TestStatusMends(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip(8)")
	}
	for what, c := range map[string]struct {
		disturb, state string
		commands       int
	}{
		"nothing":                              {"true", twoOK, 0},
		"a rule deleted":                       {"ip rule del pref 1001 from 10.0.1.21", "eth0 ok\neth1 differs", 1},
		"a group rule deleted":                 {"ip rule del pref 999", twoOK, 1},
		"its rules flushed":                    {"ip rule flush protocol 236", "eth0 ok\neth1 differs", 5},
		"its table flushed":                    {"ip route flush table 1001", "eth0 ok\neth1 differs", 3},
		"an address removed":                   {"ip addr del 10.0.1.21/32 dev eth1", "eth0 ok\neth1 differs", 1},
		"its group reset":                      {"ip link set eth1 group 0", "eth0 ok\neth1 differs", 1},
		"IPv6 switched on":                     {"echo 0 >/proc/sys/net/ipv6/conf/eth1/disable_ipv6", "eth0 ok\neth1 differs", 1},
		"the primary's group reset":            {"ip link set eth0 group 0", "eth0 differs\neth1 ok", 1},
		"a rule that says less":                {"ip rule add pref 1001 lookup 1001", "eth0 ok\neth1 differs", 7},
		"a rule before its own":                {"ip rule del pref 1001 from 10.0.1.20; ip rule add pref 1001 from 10.0.1.9 lookup 1001 protocol 236; ip rule add pref 1001 lookup 1001; ip rule add pref 1001 from 10.0.1.20 lookup 1001 protocol 236", "eth0 ok\neth1 differs", 0},
		"a route before the primary's":         {"ip route del 10.0.0.0/24 dev eth0; ip route add 10.0.0.0/24 dev eth1 proto kernel; ip route append 10.0.0.0/24 dev eth0 proto kernel src 10.0.0.10", "eth0 ok\neth1 differs", 2},
		"routes with a scope and a locked MTU": {"ip route add 10.50.0.0/16 dev eth1 scope global; ip route add 10.51.0.0/16 via 10.0.1.7 dev eth1 mtu lock 1400", "eth0 ok\neth1 differs", 2},
		"a route with two gateways":            {"ip route add 10.50.0.0/16 mtu 1400 nexthop via 10.0.1.7 dev eth1 nexthop via 192.0.2.1 dev eth1 weight 3 onlink", "eth0 ok\neth1 differs", 1},
		"all at once": {"ip rule flush protocol 236; ip route flush table 1001; ip addr del 10.0.1.21/32 dev eth1; ip link set eth1 group 0; ip link set eth0 group 0",
			"eth0 differs\neth1 differs", 0},
	} {
		t.Run(what, func(t *testing.T) {
			withENIs(t, func(m *machine) {
				sh(t, c.disturb)
				before, logged := m.picture(t), len(m.log)
				s := m.statusNow(t, "")
				if !strings.HasPrefix(s.states(), c.state+"\neth2 unknown: ") {
					t.Errorf("states\n%s\nwant\n%s", s.states(), c.state)
				}
				if c.commands > 0 && len(s.Commands) != c.commands || s.Differs != (what != "nothing") || s.Differs != (len(s.Commands) > 0) {
					t.Errorf("differs: %v, by %q", s.Differs, s.Commands)
				}
				same(t, "state after the look", m.picture(t), before)
				for _, line := range s.Commands {
					sh(t, line)
				}
				again := m.statusNow(t, "")
				if again.Differs || !strings.HasPrefix(again.states(), twoOK+"\n") {
					t.Errorf("%q\nleave %q\n%s", s.Commands, again.Commands, again.states())
				}
				same(t, "log", m.log[logged:], nil)
			})
		})
	}
}

func sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
}

// An ENI that is not served has a state with its reason.
func TestStatusStates(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(m *machine)
		name string
		want string
	}{
		{"of this machine alone", func(*machine) {}, "eth1", "eth1 ok"},
		{"set down", func(m *machine) { sh(t, "ip link set eth1 down") }, "eth1", "eth1 down: somebody has set it down"},
		{"its lease ended", func(m *machine) { m.lease(t, "eth1", "EXPIRE", "") }, "eth1", "eth1 down: its lease has ended"},
		{"unmanaged", func(m *machine) { m.Unmanaged = Patterns{"eth2"} }, "eth2", "eth2 left alone: EC2NET_UNMANAGED names it"},
		{"kept out by its cfg file", func(m *machine) {
			_, err := m.Tree.Write("/etc/network/interfaces.d/eth2.cfg", []byte("# EC2SYNC=no\n"))
			check(t, err)
		}, "eth2", "eth2 left alone: /etc/network/interfaces.d/eth2.cfg says EC2SYNC=no"},
		{"another stanza", func(m *machine) {
			_, err := m.Tree.Write("/etc/network/interfaces.d/mine.cfg", []byte("iface eth2 inet dhcp\n"))
			check(t, err)
		}, "eth2", "eth2 left alone: "},
		{"taken down", func(m *machine) { check(t, m.Down(t.Context(), "eth1")) }, "eth1", `eth1 down: "ec2ifup eth1" brings it up`},
		{"detached", func(m *machine) {
			sh(t, "ip link del eth1")
			check(t, m.Remove(t.Context(), "eth1"))
		}, "eth1", "eth1 down: it is not attached"},
		{"another program's group, for which rules wait", func(m *machine) { sh(t, "ip rule del pref 999; ip link set eth0 group 42") }, "eth0", "eth0 ok: interface group is 42, set by another program"},
		{"another base since", func(m *machine) { m.Numbers.Base = 3000 }, "eth1", "eth1 differs: interface group is 1000, set by another program, or before EC2NET_BASE was changed"},
		{"a lost address of its DHCP client", func(m *machine) { sh(t, "ip addr del 10.0.1.20/24 dev eth1") }, "eth1", "eth1 differs"},
	} {
		t.Run(c.what, func(t *testing.T) {
			withENIs(t, func(m *machine) {
				c.do(m)
				s := m.statusNow(t, c.name)
				if !strings.HasPrefix(s.states(), c.want) || len(s.ENIs) != 1 {
					t.Errorf("%s\nwant %s", s.states(), c.want)
				}
			})
		})
	}
}

// An address that EC2 has moved is in the row of its new ENI alone, also while the old one is
// down, about which nobody asks IMDS.
func TestStatusOfMoved(t *testing.T) {
	withENIs(t, func(m *machine) {
		moved := m.statusNow(t, "eth1").ENIs[0].Addresses[1]
		sh(t, "ip link set eth1 down")
		check(t, m.memory().setMoved([]plan.Moved{{Addr: moved, From: m.linkNamed(t, "eth1").MAC, To: m.linkNamed(t, "eth0").MAC}}))
		if s := m.statusNow(t, "eth1"); slices.Contains(s.ENIs[0].Addresses, moved) || len(s.ENIs[0].Addresses) == 0 {
			t.Errorf("eth1 is to have %v", s.ENIs[0].Addresses)
		}
	})
}

// Rules of an ENI that is gone are named, until it leaves nothing behind.
func TestStatusOfGone(t *testing.T) {
	withENIs(t, func(m *machine) {
		sh(t, "ip link del eth1")
		s := m.statusNow(t, "")
		if !strings.Contains(s.states(), "eth1 differs") || !s.Differs {
			t.Errorf("%s %q", s.states(), s.Commands)
		}
		for _, line := range s.Commands {
			sh(t, line)
		}
		if s := m.statusNow(t, ""); strings.Contains(s.states(), "eth1") || s.Differs {
			t.Errorf("%s %q", s.states(), s.Commands)
		}
	})
}

func TestStatusOfNobody(t *testing.T) {
	withENIs(t, func(m *machine) {
		for name, want := range map[string]fault.Status{"eth7": fault.NoRetry, "lo": fault.Usage} {
			if s, err := m.Status(t.Context(), name); fault.Of(err) != want || s != nil {
				t.Errorf("%s: %v, %v", name, s, err)
			}
		}
	})
}

// What cannot be read is unknown and an error, and the rest is there.
func TestStatusUnread(t *testing.T) {
	withENIs(t, func(m *machine) {
		note := m.Tree
		check(t, note.Remove(notePath("eth1")))
		check(t, note.MakeDir(notePath("eth1"))) // a folder in its place
		s, err := m.Status(t.Context(), "")
		if err == nil || s == nil || !strings.HasPrefix(s.states(), "eth0 ok\neth1 unknown: ") {
			t.Fatalf("%v, %+v", err, s)
		}
	})
}

// Watch keeps its last lines, and the status has them.
func TestStatusOfWatch(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		s, err := w.Status(t.Context(), "")
		check(t, err)
		changed := slices.ContainsFunc(s.Watch.Lines, func(l WatchLine) bool { return !strings.HasPrefix(l.Text, "eth0: wrote ") }) // the first refresh
		if s.Watch.Runs == nil || !*s.Watch.Runs || changed || s.Differs {
			t.Errorf("%+v", s)
		}
		began := time.Now()
		for range 2 * maxLately {
			eth1, _, err := w.linkOf("eth1")
			check(t, err)
			check(t, w.kernel.Apply(plan.SetGroup{Link: eth1}))
			w.after(time.Minute)
		}
		s, err = w.Status(t.Context(), "eth1")
		check(t, err)
		last := s.Watch.Lines[len(s.Watch.Lines)-1]
		if len(s.Watch.Lines) != maxLately || last.Text != "eth1: ip link set dev eth1 group 1000 (the group of all ENIs; watch)" ||
			last.Time.Before(began.Add(30*time.Minute).Truncate(time.Second)) {
			t.Errorf("%+v", s.Watch)
		}
		w.vpc.mu.Lock()
		w.vpc.err = errors.New("IMDS is gone")
		w.vpc.mu.Unlock()
		w.after(2 * time.Minute)
		s, err = w.Status(t.Context(), "eth1")
		check(t, err)
		if last := s.Watch.Lines[maxLately-1].Text; !strings.HasPrefix(last, "warning: IMDS is gone; ") {
			t.Errorf("%q", last)
		}
	})
}
