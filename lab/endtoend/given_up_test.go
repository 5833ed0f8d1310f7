package endtoend

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"ec2net/lab"
)

// startedForEth1 is a shell command that prints what ec2net may have started and left
// running for eth1: ended processes and those of the machine itself left out.
const startedForEth1 = `ps -e -o pid=,stat=,args= | grep -E '[i]fup|[i]fdown|[d]hclient.*eth1|[d]hcpcd.*eth1|[s]leep 54321|[i]ptables|[e]c2net' | awk '$2 !~ /^Z/' || :`

const longPostUp = `{{define "cfg-post-up"}}
    post-up (setsid sh -c 'sleep 54321 & sleep 54321' &); sleep 54321 & sleep 54321
{{end}}`

// ec2net gives up an ifup that takes too long, and nothing of it is left: no DHCP
// client, no post-up line. The next try starts one DHCP client.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	// ec2net reads a timeout in dhclient.conf itself, and would wait as long.
	const slow = `echo 'timeout 300;' >/etc/dhcp/slow.conf; echo 'include "/etc/dhcp/slow.conf";' >>/etc/dhcp/dhclient.conf`
	for name, c := range map[string]struct {
		stack
		setup lab.Setup
		// silent is a DHCP server that does not answer; postUp has a line that takes
		// longer than the limit.
		silent, postUp bool
		// started is a shell condition: the process to give up has begun.
		started string
		// signal ends ec2net; without one it is the limit of ifup, 100 s, or of networkd, 60 s.
		signal syscall.Signal
		says   string
	}{
		"silent DHCP server":                  {ifupdown, lab.Setup{Prepare: slow}, true, false, "pgrep -f '[d]hclient.*eth1'", stop, "told to end"},
		"silent DHCP server, terminal":        {ifupdown, lab.Setup{Prepare: slow}, true, false, "pgrep -f '[d]hclient.*eth1'", syscall.SIGHUP, "told to end"},
		"silent DHCP server, limit":           {ifupdown, lab.Setup{Prepare: slow}, true, false, "pgrep -f '[d]hclient.*eth1'", 0, "took too long and was ended, at dhclient"},
		"silent DHCP server, dhcpcd":          {ifupdown, lab.Setup{Release: "trixie", Dhcpcd: true}, true, false, "pgrep -f '[d]hcpcd.*eth1'", stop, "told to end"},
		"long post-up":                        {ifupdown, lab.Setup{}, false, true, "test 4 = $(pgrep -fxc 'sleep 54321')", stop, "told to end"},
		"long post-up, limit":                 {ifupdown, lab.Setup{}, false, true, "test 4 = $(pgrep -fxc 'sleep 54321')", 0, "took too long and was ended, at sleep"},
		"long post-up, dhcpcd":                {ifupdown, lab.Setup{Release: "trixie", Dhcpcd: true}, false, true, "test 4 = $(pgrep -fxc 'sleep 54321')", stop, "told to end"},
		"long post-up, dhcpcd of 2022":        {ifupdown, lab.Setup{Dhcpcd: true}, false, true, "test 4 = $(pgrep -fxc 'sleep 54321')", stop, "told to end"},
		"silent DHCP server, networkd":        {imageStack, lab.Setup{}, true, false, "test -e /run/ec2net/eth1.network", stop, "told to end"},
		"silent DHCP server, networkd, limit": {imageStack, lab.Setup{}, true, false, "test -e /run/ec2net/eth1.network", 0, "no lease within 1m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20")
			c.setup.Prepare += "\nrm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules; echo noarp >>/etc/dhcpcd.conf"
			i := c.boot(t, v, c.setup)
			eth1.Attach(t, "eth1")
			// The tests may run under nohup(1), whose children ignore SIGHUP.
			add := lab.Cmd{Args: []string{"env", "--default-signal=HUP", "INTERFACE=eth1", "ACTION=add", "/etc/network/ec2net.hotplug"}}
			if c.silent {
				v.DHCP(t, lab.Silent)
			}
			if c.postUp {
				i.WriteFile(t, "/etc/ec2net/templates/blocks.tmpl", longPostUp)
			}
			began := time.Now()
			hotplug := i.Start(t, add)
			i.WaitSh(t, c.started)
			if c.signal != 0 {
				hotplug.Signal(c.signal)
			}
			r := hotplug.Wait(t)
			if r.Status != 5 || !strings.Contains(r.Stderr, c.says) {
				t.Errorf("status %d\n%s", r.Status, r.Stderr)
			}
			t.Logf("ended after %v: %s", time.Since(began), r.Stderr)
			if left := i.Sh(t, startedForEth1); left != "" {
				t.Errorf("left running:\n%s", left)
			}

			v.DHCP(t, lab.Up)
			i.Sh(t, "rm -f /etc/ec2net/templates/blocks.tmpl")
			if r := i.Run(t, add); r.Status != 0 {
				t.Errorf("once more: status %d\n%s", r.Status, r.Stderr)
			}
			oneClient(t, i, "eth1")
			answer(t, []*lab.Place{v.Client}, "10.0.0.20")
		})
	}
}

// While somebody holds the lock of iptables, each iptables waits, but not for ever:
// the ENI comes up and goes down without marks.
func TestLockOfIptables(t *testing.T) { onStacks(t, testLockOfIptables) }

func testLockOfIptables(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20")
	i := s.boot(t, v, lab.Setup{Prepare: "echo EC2NET_MARKS=yes >>/etc/default/ec2net; update-alternatives --set iptables /usr/sbin/iptables-legacy; rm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules"})
	eth1.Attach(t, "eth1")
	held := i.Start(t, lab.Cmd{Args: []string{"flock", "--no-fork", "/run/xtables.lock", "sleep", "1000"}})
	i.WaitSh(t, "! flock -n /run/xtables.lock true")
	// Three waits of ten seconds, and two.
	fails(t, i, 0, 35*time.Second, "INTERFACE=eth1 ACTION=add exec /etc/network/ec2net.hotplug")
	oneClient(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.20")
	fails(t, i, 0, 25*time.Second, "INTERFACE=eth1 ACTION=remove exec /etc/network/ec2net.hotplug")
	if left := i.Sh(t, startedForEth1); left != "" {
		t.Errorf("left running:\n%s", left)
	}
	held.Signal(stop)
	<-held.Ended()
	i.WaitSh(t, "flock -n /run/xtables.lock true")
	fails(t, i, 0, 10*time.Second, "INTERFACE=eth1 ACTION=add exec /etc/network/ec2net.hotplug")
	oneClient(t, i, "eth1")
	i.Sh(t, "iptables -t mangle -S | grep -q -e '-A PREROUTING -i eth1 -j ec2net-eth1'")
}
