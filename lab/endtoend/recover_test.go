package endtoend

import (
	"fmt"
	"testing"

	"ec2net/lab"
)

// failsOnce is a drop-in of a unit that has it fail the first time, before it does
// anything, as if the kernel had killed it for want of memory.
func failsOnce(unit, more string) string {
	return fmt.Sprintf(`mkdir -p /etc/systemd/system/%[1]s.d; cat >/etc/systemd/system/%[1]s.d/once.conf <<'EOF'
[Service]
ExecStartPre=/bin/sh -c 'test -e /run/%[1]s || { touch "/run/%[1]s"; exit 1; }'
%[2]s
EOF
`, unit, more)
}

const (
	gone   = "! ip rule | grep -q 'lookup 1001' && ! ip route show table 1001 | grep -q . && test ! -e /run/ec2net/eth1.up && ! pgrep -f '[d]hclient.*eth1' && ! iptables -t mangle -S | grep -q ec2net-eth1"
	failed = "test failed = $(systemctl is-active ec2net-unplug@eth1.service)"
)

// Taking down an ENI that is gone fails once: the unit tries again; if it may not, a scan
// finishes the work, and so does watch.
func TestUnplugFails(t *testing.T) { onStacks(t, testUnplugFails) }

func testUnplugFails(t *testing.T, s stack) {
	for name, c := range map[string]struct{ prepare, finish string }{
		"the unit": {failsOnce("ec2net-unplug@.service", ""), ""},
		"a scan":   {failsOnce("ec2net-unplug@.service", "Restart=no"), "ec2ifupscan"},
		"watch":    {failsOnce("ec2net-unplug@.service", "Restart=no") + "systemctl enable ec2net-watch.service", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service\n" + c.prepare})
			i.WaitRunning(t)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			i.WaitSh(t, "test inactive = $(systemctl is-active ec2net-hotplug@eth1.service)")
			eth1.Detach(t)
			if c.finish != "" {
				i.WaitSh(t, failed)
				i.Sh(t, c.finish)
			}
			i.WaitSh(t, gone)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
		})
	}
}

// systemd executes itself anew, again and again, while ENIs come and go: no event of
// udev's is lost.
func TestReexec(t *testing.T) { onStacks(t, testReexec) }

func testReexec(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	names := []string{"eth1", "eth2", "eth3", "eth4"}
	var enis []*lab.ENI
	for n := range names {
		enis = append(enis, v.AddENI(t, fmt.Sprintf("10.0.1.%d", 20+n)))
	}
	i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service"})
	i.WaitRunning(t)
	pause := "0.1"
	if s.setup.Image {
		pause = "3" // it has more generators, and D-Bus, by which networkd may wait for systemd
	}
	reexec := i.Start(t, lab.Cmd{Args: []string{"sh", "-c", "while :; do systemctl daemon-reexec; sleep " + pause + "; done"}})
	for range 2 {
		for n, name := range names {
			enis[n].Attach(t, name)
		}
		for _, name := range names {
			waitUp(t, i, name)
		}
		for _, eni := range enis {
			eni.Detach(t)
		}
		for _, name := range names {
			waitDown(t, i, name)
		}
	}
	reexec.Signal(stop)
	<-reexec.Ended()
	i.WaitSh(t, "systemctl list-jobs")
	noneFailed(t, i)
}

// The scan at boot fails once: its unit tries again.
func TestScanFails(t *testing.T) { onStacks(t, testScanFails) }

func testScanFails(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20")
	i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service\n" + failsOnce("ec2net-scan.service", "RestartSec=1s")})
	i.WaitSh(t, "test -e /run/ec2net-scan.service && systemctl is-active -q ec2net-scan.service")
	i.WaitBooted(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	v.ResetCounters(t)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20")
	noneFailed(t, i)
}
