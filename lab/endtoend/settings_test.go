package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// With one wrong line in the settings, every ENI comes up at the next boot by the last
// good ones, with the same numbers. Once mended, the file holds at the next event.
func TestWrongSettings(t *testing.T) { onStacks(t, testWrongSettings) }

func testWrongSettings(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20")
	i := s.boot(t, v, lab.Setup{Systemd: true,
		Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service; echo EC2NET_BASE=2000 >>/etc/default/ec2net"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, "echo EC2NET_BSAE=1000 >>/etc/default/ec2net")
	i.Reboot(t)
	i.WaitRunning(t)
	waitUp(t, i, "eth1")
	noneFailed(t, i)
	i.Sh(t, "ip rule | grep -q 'from 10.0.1.20 lookup 2001'")
	i.Echo(t, 7)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20")
	warned := i.Sh(t, "journalctl --boot --priority=warning --identifier=ec2net --no-pager")
	if !strings.Contains(warned, `there is no setting "EC2NET_BSAE"`) {
		t.Errorf("the log warns of:\n%s", warned)
	}

	i.Sh(t, "sed -i '/BSAE/s/.*/EC2NET_UNMANAGED=eth1/' /etc/default/ec2net")
	r := i.Run(t, lab.Cmd{Args: []string{"ec2ifup", "eth1"}})
	if r.Status != 6 || !strings.Contains(r.Stderr, "EC2NET_UNMANAGED names it") {
		t.Errorf("status %d, %s", r.Status, r.Stderr)
	}
}
