package endtoend

import (
	"testing"

	"ec2net/lab"
)

// The DHCP client of eth1 is killed, as by the OOM killer, and the kernel removes the address
// when the lease is over. Then watch, or without watch a scan, brings eth1 up again.
func TestClientKilled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		stack
		setup   lab.Setup
		recover string
	}{
		"dhclient, watch":  {ifupdown, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service"}, ":"},
		"dhcpcd, watch":    {ifupdown, lab.Setup{Release: "trixie", Systemd: true, Dhcpcd: true, Prepare: "echo noarp >>/etc/dhcpcd.conf; systemctl enable ec2net-scan.service ec2net-watch.service"}, ":"},
		"a scan":           {ifupdown, lab.Setup{}, "ec2ifupscan"},
		"networkd, watch":  {imageStack, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-watch.service"}, ":"},
		"networkd, a scan": {imageStack, lab.Setup{Systemd: true}, "ec2ifupscan"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			i := c.boot(t, v, c.setup)
			if c.setup.Systemd {
				i.WaitRunning(t)
			}
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			// The kernel removes an address when its lifetime is over.
			i.Sh(t, `for pid in $(pgrep -x 'dhclient|dhcpcd'); do ! grep -q eth1 /proc/$pid/cmdline || kill -KILL $pid || true; done
ip addr change 10.0.1.20/24 dev eth1 valid_lft 1 preferred_lft 1`)
			i.WaitSh(t, "! ip addr show dev eth1 | grep -q 10.0.1.20/")
			i.Sh(t, c.recover)
			i.WaitSh(t, "ip addr show dev eth1 | grep -q 10.0.1.20/24")
			waitUp(t, i, "eth1")
			i.WaitSh(t, "ip rule | grep -q 'from 10.0.1.21 lookup 1001'")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
			oneClient(t, i, "eth1")
		})
	}
}
