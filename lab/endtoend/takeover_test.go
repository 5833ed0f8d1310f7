package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// takeOver prepares an image as it is before ec2net is installed: cloud-init configures every
// ENI. An administrator's YAML mentions eth2.
const takeOver = `
rm /etc/cloud/cloud.cfg.d/95-ec2net.cfg
systemctl enable ec2net-scan.service ec2net-watch.service
printf 'network:\n  ethernets:\n    eth2:\n      optional: true\n' >/etc/netplan/60-lan.yaml
`

// An instance boots for the first time with an ENI that cloud-init configures too: ec2net
// takes it over, says so once, and what networkd made of cloud-init's file is gone. An ENI
// that an administrator's YAML mentions stays the administrator's.
func TestImageTakeOver(t *testing.T) {
	onImages(t, func(t *testing.T, release string) {
		v := lab.NewVPC(t, lab.Plan{})
		eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
		eth1.Attach(t, "eth1")
		eth2 := v.AddENI(t, "10.0.1.30")
		eth2.Attach(t, "eth2")
		i := boot(t, v, lab.Setup{Release: release, Image: true, Prepare: takeOver})
		i.WaitRunning(t)
		waitUp(t, i, "eth1")
		answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
		log := i.Sh(t, "journalctl -t ec2net -o cat --no-pager")
		over := "in the place of cloud-init's /run/systemd/network/10-netplan-eth1.network"
		left := "eth2: is left alone: netplan configures it, by /etc/netplan/50-cloud-init.yaml and /etc/netplan/60-lan.yaml"
		if strings.Count(log, over) != 1 || !strings.Contains(log, left) {
			t.Errorf("not once %q, or not %q, in\n%s", over, left, log)
		}
		// cloud-init's other address has a route to the subnet, which would beat the primary's.
		if got := i.Sh(t, "ip -4 -o addr show dev eth1 permanent"); strings.Contains(got, "/24 ") || !strings.Contains(got, "10.0.1.21/32 ") {
			t.Errorf("eth1 has %s", got)
		}
	})
}
