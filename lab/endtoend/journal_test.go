package endtoend

import (
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// A journald that does not read blocks no hook, and so no lock.
func TestJournaldStops(t *testing.T) { onStacks(t, testJournaldStops) }

func testJournaldStops(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := s.boot(t, v, lab.Setup{Systemd: true})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, `
systemctl show --property=MainPID --value systemd-journald.service >/run/journald
kill -STOP $(cat /run/journald)
while timeout 1 logger full; do :; done
ip rule del from 10.0.0.20; ip rule del from 10.0.0.21`)
	fails(t, i, 0, 5*time.Second, "env "+s.renew("eth1", "10.0.0.20"))
	if rules := i.Sh(t, "ip rule"); !strings.Contains(rules, "from 10.0.0.20 lookup 1001") || !strings.Contains(rules, "from 10.0.0.21 lookup 1001") {
		t.Errorf("the rules are\n%s", rules)
	}
	i.Sh(t, "kill -CONT $(cat /run/journald)")
	i.Sh(t, "ip rule del from 10.0.0.21")
	fails(t, i, 0, 5*time.Second, "env "+s.renew("eth1", "10.0.0.20"))
	i.WaitFor(t, "a line in the log", func() bool { return strings.Contains(i.Log(t), "from 10.0.0.21 lookup 1001 protocol 236 (") })
}

// systemd names an exit status by the LSB's list, which has other meanings. ec2net's
// own text is beside that, and a warning in the log; nothing else is a warning.
func TestFailedUnit(t *testing.T) { onStacks(t, testFailedUnit) }

func testFailedUnit(t *testing.T, s stack) {
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20")
			i := s.boot(t, v, lab.Setup{Release: release, Systemd: true})
			i.WaitRunning(t)
			v.IMDS.Fault(imds.Fault{Status: 403})
			eth1.Attach(t, "eth1")
			i.WaitSh(t, "test auto-restart = $(systemctl show --property=SubState --value ec2net-hotplug@eth1.service)")
			const status = "systemctl status --full ec2net-hotplug@eth1.service || :"
			const failed, means = "IMDS at http://169.254.169.254 answered 403", "exit status 3: could not get the facts"
			shown := i.Sh(t, status)
			if _, text, _ := strings.Cut(shown, `Status: "`); !strings.HasPrefix(text, failed) || !strings.Contains(text, means) {
				t.Errorf("systemctl status shows\n%s", shown)
			}
			const warnings = "journalctl --no-pager --output=cat --priority=warning --identifier=ec2net"
			i.WaitFor(t, "the line in the log", func() bool { return strings.Contains(i.Sh(t, warnings), "eth1: "+failed) })
			if lines := i.Sh(t, warnings); strings.Count(lines, "\n") != 1 || !strings.Contains(lines, means) {
				t.Errorf("the warnings are\n%s", lines)
			}

			v.IMDS.Heal()
			i.Sh(t, "systemctl restart ec2net-hotplug@eth1.service")
			if shown := i.Sh(t, status); strings.Contains(shown, failed) && strings.Contains(shown, "Status:") {
				t.Errorf("all is well, and systemctl status shows\n%s", shown)
			}
			if lines := i.Sh(t, warnings); strings.Count(lines, "\n") != 1 {
				t.Errorf("all is well, and the warnings are\n%s", lines)
			}
		})
	}
}
