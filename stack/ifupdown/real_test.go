package ifupdown

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"ec2net/disk"
	"ec2net/lab"
)

// instance is a Debian system with the real ifupdown, a real DHCP client and an ENI,
// and without ec2net.
type instance struct {
	*lab.Instance
	t    *testing.T
	eth1 *lab.ENI
}

func newInstance(t *testing.T, release string, dhcpcd bool) *instance {
	t.Helper()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20")
	// dhcpcd would probe an address for five seconds before using it.
	i := v.Boot(t, lab.Setup{Release: release, Dhcpcd: dhcpcd, Prepare: "mkdir -p /etc/network/interfaces.d; echo noarp >>/etc/dhcpcd.conf"})
	eth1.Attach(t, "eth1")
	i.WaitSh(t, "ip link show eth1")
	return &instance{i, t, eth1}
}

// cfg is eth1's stanza, whose commands write to /tmp/log.
func (i *instance) cfg(word string, more ...string) {
	i.t.Helper()
	text := "# " + word + "\niface eth1 inet dhcp\n  metric 1001\n"
	for _, option := range []string{"up", "down", "post-down"} {
		text += fmt.Sprintf("  %[1]s echo %[1]s %[2]s >>/tmp/log\n", option, word)
	}
	i.WriteFile(i.t, cfg1, text+strings.Join(more, ""))
}

// do calls the stack on the instance.
func (i *instance) do(f func(s *Stack) error) {
	i.t.Helper()
	i.Inside(i.t, func() error {
		tree, err := disk.OpenMachine(RunDir)
		if err != nil {
			return err
		}
		defer tree.Close()
		return f(&Stack{Tree: tree, Tell: func(string, string) {}, Run: func(ctx context.Context, program string, args ...string) error {
			cmd := exec.CommandContext(ctx, "/usr/bin/env", append([]string{program}, args...)...)
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
			return cmd.Run() // without output: a client that goes on would hold it
		}})
	})
}

func (i *instance) up() {
	i.t.Helper()
	i.do(func(s *Stack) error { return s.Up(i.t.Context(), eth1, false) })
	i.is("up", true, true)
}

func (i *instance) down() {
	i.t.Helper()
	i.do(func(s *Stack) error {
		ran, err := s.Down(i.t.Context(), eth1)
		if err == nil && !ran {
			err = fmt.Errorf("ifdown did not run")
		}
		return err
	})
}

// is fails unless ifupdown counts eth1 as up, and its client is alive, as given.
func (i *instance) is(when string, counted, alive bool) {
	i.t.Helper()
	if alive {
		i.WaitFor(i.t, when+": a client that is alive", i.clientAlive)
	} else if i.clientAlive() {
		i.t.Errorf("%s: the client is alive", when)
	}
	i.do(func(s *Stack) error {
		c, err := s.countedUp("eth1")
		if c != counted {
			i.t.Errorf("%s: counted as up: %t", when, c)
		}
		return err
	})
}

func (i *instance) clientAlive() (alive bool) {
	i.t.Helper()
	i.do(func(s *Stack) (err error) {
		alive, err = s.clientAlive("eth1")
		return err
	})
	return alive
}

// said fails unless the stanza's commands wrote these lines since its last call.
func (i *instance) said(when string, want ...string) {
	i.t.Helper()
	got := strings.Fields(strings.ReplaceAll(i.Sh(i.t, "cat /tmp/log; rm /tmp/log"), " ", "-"))
	if strings.Join(got, " ") != strings.Join(want, " ") {
		i.t.Errorf("%s: the stanza said %q, want %q", when, got, want)
	}
}

// clean fails if anything of eth1's is left: a client, an address, state.
func (i *instance) clean(when string) {
	i.t.Helper()
	i.WaitSh(i.t, clientless)
	if out := i.Sh(i.t, "ip -4 addr show dev eth1 2>/dev/null || :; grep ^eth1= /run/network/ifstate || :; ls /run/ec2net/eth1.cfg 2>/dev/null || :"); out != "" {
		i.t.Errorf("%s: left behind:\n%s", when, out)
	}
}

// clientless is a condition for a shell: no DHCP client of eth1 runs.
const clientless = `! ps -eo args= | grep -E '^(dhclient|dhcpcd)\b.* eth1( |$)'`

// ifdown takes an interface down by the copy of its stanza, whatever has become of
// the stanza, and ends the DHCP client. Without the copy it would do nothing, with
// status 0.
func TestRealIfdown(t *testing.T) {
	for _, release := range releases {
		for _, dhcpcd := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s dhcpcd=%t", release, dhcpcd), func(t *testing.T) {
				t.Parallel()
				i := newInstance(t, release, dhcpcd)

				i.cfg("first")
				i.up()
				i.said("up", "up-first")
				i.down()
				i.said("down", "down-first", "post-down-first")
				i.clean("down")

				i.cfg("second")
				i.up()
				i.cfg("third")
				i.do(func(s *Stack) error {
					if changed, err := s.changed("eth1"); err != nil || !changed {
						t.Errorf("changed: %t, %v", changed, err)
					}
					return s.Up(t.Context(), eth1, true)
				})
				i.is("up again", true, true)
				i.said("up again", "up-second")
				i.down()
				i.said("changed", "down-second", "post-down-second")
				i.clean("changed")

				i.cfg("fourth")
				i.up()
				i.Sh(t, "rm "+cfg1)
				if r := i.Run(t, lab.Cmd{Args: []string{"ifdown", "--force", "eth1"}}); r.Status != 0 || strings.Contains(i.Sh(t, "cat /tmp/log"), "down") {
					t.Errorf("ifdown without a stanza: status %d, or it took something down", r.Status)
				}
				i.is("not really down", false, true)
				i.down()
				i.said("removed", "up-fourth", "down-fourth", "post-down-fourth")
				i.clean("removed")

				// The last line of the stanza fails: a client is left, and no state.
				i.cfg("fifth", "  up false\n")
				i.do(func(s *Stack) error {
					if err := s.Up(t.Context(), eth1, false); err == nil {
						t.Error("ifup did not fail")
					}
					return nil
				})
				i.is("ifup failed", false, true)
				i.cfg("sixth")
				i.down()
				i.said("ifup failed", "up-fifth", "down-fifth", "post-down-fifth")
				i.clean("ifup failed")

				i.up()
				i.Sh(t, "kill $(cat /run/dhclient.eth1.pid /run/dhcpcd/eth1.pid 2>/dev/null)")
				i.WaitSh(t, clientless)
				i.is("client killed", true, false)
				i.down()
				i.said("client killed", "up-sixth", "down-sixth", "post-down-sixth")
				i.Sh(t, "ip addr flush dev eth1") // dhcpcd and ifdown leave the address
				i.clean("client killed")

				i.WriteFile(t, cfg1, "iface eth1 inet static\n  address 10.0.0.20/24\n")
				i.up()
				i.down()
				i.clean("static")

				i.cfg("seventh")
				i.up()
				i.eth1.Detach(t)
				i.WaitSh(t, "! ip link show eth1")
				i.Sh(t, "rm "+cfg1)
				i.down()
				i.said("unplugged", "up-seventh", "down-seventh", "post-down-seventh")
				i.clean("unplugged")
			})
		}
	}
}
