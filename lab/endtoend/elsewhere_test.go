package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// While /run is full, ec2net notes what the DHCP client says all the same: the next event
// neither gives an ended lease its rules back nor takes those of a new one away.
func TestRunFull(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := boot(t, v, lab.Setup{})
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, aside(runFolder, "size=32k")+"cat /dev/zero >"+runFolder+"/full 2>/dev/null || :")
	before := sorted(i.State(t))
	for range 2 {
		for _, reason := range []string{"RELEASE", "BOUND"} {
			i.Sh(t, hook+"hook "+reason)
			for _, event := range []string{"", "ec2net refresh", "ec2net refresh eth1"} {
				i.Sh(t, event)
				state := i.State(t)
				if reason == "BOUND" && sorted(state) != before {
					sameState(t, reason+", "+event, before, sorted(state))
				} else if reason == "RELEASE" {
					lacks(t, state, "lookup 1001")
				}
			}
		}
	}
	// Without a note of the lease the ENI keeps its rules.
	i.Sh(t, "rm "+runFolder+"/eth1.lease; cat /dev/zero >"+runFolder+"/full 2>/dev/null || :; "+hook+"hook RENEW; ec2net refresh")
	sameState(t, "no note", before, sorted(i.State(t)))
	if log := i.Log(t); !strings.Contains(log, "eth1: write /run/ec2net/eth1.lease: no space left on device") {
		t.Errorf("the log does not say so:\n%s", log)
	}
}

// If /var/lib/ec2net is a link to another disk, everything works, in the confined units too.
// If the disk is missing, watch says so, and serves once it is there.
func TestStateOnAnotherDisk(t *testing.T) { onStacks(t, testStateOnAnotherDisk) }

func testStateOnAnotherDisk(t *testing.T, s stack) {
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			i := s.boot(t, v, lab.Setup{Release: release, Systemd: true, Prepare: `systemctl enable ec2net-scan.service ec2net-watch.service
rm -r /var/lib/ec2net; mkdir /srv/state; ln -s ../../srv/state /var/lib/ec2net; echo EC2NET_REFRESH=10s >>/etc/default/ec2net`})
			i.WaitRunning(t)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			// Watch writes there too.
			eth1.Assign(t, "10.0.0.22")
			i.WaitSh(t, "grep -q 10.0.0.22 /srv/state/eth1.json && ip rule | grep -q 'from 10.0.0.22 lookup 1001'")
			i.Sh(t, "systemctl start ec2net-docker.service || systemctl status ec2net-docker.service")
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.0.22")
			noneFailed(t, i)

			// The disk is missing: the unit says so, and tries again.
			i.Sh(t, "mv /srv/state /srv/away; ! systemctl restart ec2net-watch.service")
			i.WaitSh(t, "journalctl -u ec2net-watch -o cat | grep -q '/srv/state: No such file or directory'")
			i.Sh(t, "mv /srv/away /srv/state")
			eth1.Unassign(t, "10.0.0.22")
			i.WaitSh(t, "! grep -q 10.0.0.22 /srv/state/eth1.json && ! ip rule | grep -q 'from 10.0.0.22 lookup 1001'")
			i.WaitRunning(t)
		})
	}
}
