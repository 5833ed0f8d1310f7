package endtoend

import (
	"testing"

	"ec2net/lab"
)

// imageReady prepares an image as the package does: cloud-init configures the primary only,
// and networkd keeps the rules of others.
const imageReady = `
cat >/etc/cloud/cloud.cfg.d/90-ec2net.cfg <<EOF
updates: {network: {when: [boot-new-instance]}}
datasource: {Ec2: {apply_full_imds_network_config: false}}
EOF
systemctl enable ec2net-scan.service ec2net-watch.service
`

// An ENI is attached to an instance as Debian's images boot it, detached, and attached again;
// then the instance boots with it.
func TestImagePlug(t *testing.T) {
	t.Parallel()
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			i := boot(t, v, lab.Setup{Release: release, Image: true, Prepare: imageReady})
			i.WaitRunning(t)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			all := []string{"10.0.0.10", "10.0.1.20", "10.0.1.21"}
			answers(t, v, []*lab.Place{v.Client}, all...)
			t.Log(i.Sh(t, "journalctl -t ec2net -o short-monotonic --no-pager; networkctl; ip rule; ip -4 addr; ip route show table 1001; cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6; ls /etc/netplan /run/systemd/network; networkctl status eth1 --no-pager"))

			eth1.Detach(t)
			waitDown(t, i, "eth1")
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			answers(t, v, []*lab.Place{v.Client}, all...)

			i.Reboot(t)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			i.Echo(t, 7)
			answers(t, v, []*lab.Place{v.Client}, all...)
			noneFailed(t, i)
			t.Log(i.Sh(t, "journalctl -t ec2net -o short-monotonic --no-pager; networkctl"))
		})
	}
}
