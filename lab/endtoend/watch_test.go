package endtoend

import (
	"testing"

	"ec2net/lab"
)

// EC2 assigns and takes addresses of eth1 and of the primary: they follow with the next
// refresh. The settings are those of now: EC2NET_REFRESH is read anew.
func TestWatchRefresh(t *testing.T) { onStacks(t, testWatchRefresh) }

func testWatchRefresh(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, "echo EC2NET_REFRESH=10s >>/etc/default/ec2net; ip rule del from 10.0.1.21")
	eth1.Assign(t, "10.0.1.22")
	eth1.Unassign(t, "10.0.1.21")
	v.Primary.Assign(t, "10.0.0.12")
	v.Primary.Unassign(t, "10.0.0.11")
	i.WaitSh(t, `
ip addr show dev eth1 | grep -qF 10.0.1.22/32 && ip rule | grep -q 'from 10.0.1.22 lookup 1001' && ! ip rule | grep -q 10.0.1.21 &&
! ip addr show dev eth1 | grep -qF 10.0.1.21/32 && ip addr show dev eth0 | grep -qF 10.0.0.12 && ! ip addr show dev eth0 | grep -qF 10.0.0.11`)
	v.ResetCounters(t)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.12", "10.0.1.20", "10.0.1.22")
	noneFailed(t, i)
}
