package endtoend

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
)

// From udev's "add" to an answer by eth1, without a person; and back.
func TestPlug(t *testing.T) { onStacks(t, testPlug) }

func testPlug(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{})
	neighbour := v.Host(t, "10.0.0.99")
	touchTables(t, i)
	before := i.State(t)
	first := ""
	for n := range 5 {
		eth1.Attach(t, "eth1")
		waitUp(t, i, "eth1")
		answers(t, v, []*lab.Place{v.Client, neighbour}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
		if c := eth1.Counters(t); c.Sent == 0 {
			t.Errorf("nothing left by eth1: %+v", c)
		}
		state := i.State(t)
		if first == "" {
			first = state
		}
		sameState(t, fmt.Sprintf("plugged in, round %d", n), first, state)
		eth1.Detach(t)
		waitDown(t, i, "eth1")
		sameState(t, fmt.Sprintf("unplugged, round %d", n), before, i.State(t))
		if _, ok := i.ReadFile(t, s.file); !ok {
			t.Errorf("%s is gone", s.file)
		}
	}
}

// The control: with ec2net off, and eth1 configured by hand, its addresses do not
// answer outside.
func TestOff(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := boot(t, v, lab.Setup{Prepare: "rm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules /usr/sbin/ec2net"})
	eth1.Attach(t, "eth1")
	i.WriteFile(t, "/etc/network/interfaces.d/eth1.cfg", "iface eth1 inet dhcp\n    metric 1001\n")
	i.Sh(t, "ifup eth1; ip addr add 10.0.0.21/24 dev eth1")
	v.Client.Patience = lab.Silence
	for _, a := range []string{"10.0.0.20", "10.0.0.21"} {
		if err := v.Client.TCP(a + ":7"); err == nil {
			t.Errorf("without ec2net the client gets an answer from %s", a)
		}
	}
	if v.Dropped(t) == "" {
		t.Error("nothing was dropped")
	}
}

// By hand, as documented.
func TestByHand(t *testing.T) { onStacks(t, testByHand) }

func testByHand(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Prepare: "rm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules"})
	neighbour := v.Host(t, "10.0.0.99")
	eth1.Attach(t, "eth1")
	i.Sh(t, "env INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug add")
	answers(t, v, []*lab.Place{v.Client, neighbour}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
	up := i.State(t)

	// Twice, and by the stack's own command again: as it was.
	i.Sh(t, "env INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug add; "+s.again+"; ec2ifup eth1")
	sameState(t, "hotplug and "+s.again+" twice", up, i.State(t))
	i.Sh(t, s.down)
	lacks(t, i.State(t), "1001", "ec2net-eth1")
	i.Sh(t, s.up)
	s.sameAgain(t, s.down+" and "+s.up, up, i.State(t))
	i.Sh(t, "ec2ifdown eth1")
	lacks(t, i.State(t), "1001", "ec2net-eth1", "dhclient.eth1")
	i.Sh(t, "ec2ifup eth1")
	s.sameAgain(t, "ec2ifdown and ec2ifup", up, i.State(t))
}

// Three ENIs, two of them on one subnet, with two addresses each. Plugging and
// unplugging one leaves the streams of the others alone.
func TestThree(t *testing.T) { onStacks(t, testThree) }

func testThree(t *testing.T, s stack) {
	for _, backend := range s.backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			eth2 := v.AddENI(t, "10.0.1.30", "10.0.1.31")
			eth3 := v.AddENI(t, "10.0.1.40", "10.0.1.41")
			i := s.boot(t, v, lab.Setup{Prepare: "echo EC2NET_MARKS=yes >>/etc/default/ec2net; update-alternatives --set iptables /usr/sbin/iptables-" + backend})
			places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99")}
			// Two at once.
			eth1.Attach(t, "eth1")
			eth2.Attach(t, "eth2")
			waitUp(t, i, "eth1")
			waitUp(t, i, "eth2")
			answers(t, v, places, "10.0.0.10", "10.0.0.11", "10.0.0.20", "10.0.0.21", "10.0.1.30", "10.0.1.31")
			state := i.State(t)
			if want := map[string]string{"nft": "==> iptables-nft\n*mangle", "legacy": "==> iptables-legacy\n*mangle"}[backend]; !strings.Contains(state, want) {
				t.Errorf("not by %s:\n%s", backend, state)
			}

			stream, err := v.Client.Dial("tcp", "", "10.0.0.20:7")
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			flows := func(when string) {
				t.Helper()
				if _, err := lab.Ask(stream); err != nil {
					t.Errorf("%s the stream to eth1 stands still: %v", when, err)
				}
			}
			flows("at first")
			eth3.Attach(t, "eth3")
			waitUp(t, i, "eth3")
			flows("with eth3 plugged in")
			answers(t, v, places, "10.0.1.40", "10.0.1.41", "10.0.1.30")
			eth3.Detach(t)
			waitDown(t, i, "eth3")
			flows("with eth3 unplugged")
			sameState(t, "eth3 plugged and unplugged", state, i.State(t))
			answers(t, v, places, "10.0.0.10", "10.0.0.11", "10.0.0.20", "10.0.0.21", "10.0.1.30", "10.0.1.31")
		})
	}
}

// hook sources the exit hook as dhclient-script does, in dash, with -e off, and fails
// if it leaks a variable or exits.
const hook = `
hook() {
	env reason="$1" interface=eth1 new_ip_address=10.0.0.20 dash -c '
		set >/tmp/vars.before
		. /etc/dhcp/dhclient-exit-hooks.d/ec2net
		echo "status $?"
		set >/tmp/vars.after
		diff /tmp/vars.before /tmp/vars.after
	'
}
`

// The hook run fifty times; and addresses that come and go between renewals.
func TestHook(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := boot(t, v, lab.Setup{})
	// An administrator's own.
	i.Sh(t, "ip rule add pref 1001 from 10.9.9.9 lookup 77; ip rule add pref 500 fwmark 7 lookup 78; ip rule add pref 1002 from 10.8.0.0/16 lookup 1001")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	state := i.State(t)
	for _, want := range []string{"1001:\tfrom 10.9.9.9 lookup 77", "500:\tfrom all fwmark 0x7 lookup 78", "1002:\tfrom 10.8.0.0/16 lookup 1001"} {
		if !strings.Contains(state, want) {
			t.Errorf("no %q in\n%s", want, state)
		}
	}
	if out := i.Sh(t, hook+"for n in $(seq 50); do hook RENEW; done"); strings.Count(out, "status 0\n") != 50 || strings.Count(out, "\n") != 50 {
		t.Errorf("the hook says\n%s", out)
	}
	sameState(t, "fifty renewals", state, i.State(t))

	eth1.Assign(t, "10.0.0.25")
	eth1.Unassign(t, "10.0.0.21")
	// If IMDS does not answer in time, ec2net uses remembered facts.
	const has = "ip address show dev eth1 | grep -qwF "
	i.WaitSh(t, hook+"hook RENEW; "+has+"10.0.0.25 && ! "+has+"10.0.0.21")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.25")
	lacks(t, i.State(t), "10.0.0.21")
	eth1.Assign(t, "10.0.0.21")
	eth1.Unassign(t, "10.0.0.25")
	i.WaitSh(t, hook+"hook REBIND; "+has+"10.0.0.21 && ! "+has+"10.0.0.25")
	// The rules of one priority stand in the order in which they were added.
	if got := i.State(t); sorted(got) != sorted(state) {
		sameState(t, "the addresses as at first", state, got)
	}
	state = i.State(t)

	// IMDS gone: nothing is taken away, and the hook is not held up for long.
	v.IMDS.Fault(hang)
	if out := i.Sh(t, hook+"hook RENEW"); out != "status 0\n" {
		t.Errorf("the hook says\n%s", out)
	}
	sameState(t, "renewed without IMDS", state, i.State(t))
	i.Sh(t, hook+"hook EXPIRE")
	if state := i.State(t); strings.Contains(state, "proto 236") {
		t.Errorf("rules after the lease ran out:\n%s", state)
	}
}

func sorted(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}
