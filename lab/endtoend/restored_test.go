package endtoend

import (
	"testing"

	"ec2net/lab"
)

// Somebody loads an old save of the firewall, with ec2net's marks in it, on top of what is
// there, as iptables-persistent does at boot. ec2net leaves no jump doubled, and nothing of an
// ENI that is gone; on a machine that forwards no packets, it leaves no marks.
func TestFirewallRestored(t *testing.T) { onStacks(t, testFirewallRestored) }

func testFirewallRestored(t *testing.T, s stack) {
	for _, backend := range s.backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1, eth2 := v.AddENI(t, "10.0.1.20"), v.AddENI(t, "10.0.0.30")
			i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "echo EC2NET_REFRESH=10s >>/etc/default/ec2net; systemctl enable ec2net-scan.service ec2net-watch.service; update-alternatives --set iptables /usr/sbin/iptables-" + backend})
			i.WaitRunning(t)
			eth1.Attach(t, "eth1")
			eth2.Attach(t, "eth2")
			waitUp(t, i, "eth1")
			waitUp(t, i, "eth2")
			const jumps = "iptables -t mangle -S | grep -e '-j ec2net' | sort | tr '\\n' ' '"
			has := func(enis string) {
				t.Helper()
				i.WaitSh(t, "want=; for e in "+enis+"; do want=\"$want-A PREROUTING -i $e -j ec2net-$e \"; done; test \"$want-A PREROUTING -j ec2net-docker \" = \"$("+jumps+")\"")
			}
			i.Sh(t, "sysctl -qw net.ipv4.ip_forward=1")
			has("eth0 eth1 eth2")
			i.Sh(t, "iptables-save >/root/saved")
			eth2.Detach(t)
			waitDown(t, i, "eth2")
			has("eth0 eth1")

			i.Sh(t, "iptables-restore --noflush </root/saved; iptables-restore --noflush </root/saved")
			has("eth0 eth1")

			i.Sh(t, "sysctl -qw net.ipv4.ip_forward=0")
			i.WaitSh(t, "! iptables -t mangle -S | grep ec2net")
			i.Sh(t, "iptables-restore --noflush </root/saved")
			if backend == "legacy" { // it has no events
				i.Sh(t, "ec2ifupscan")
			}
			i.WaitSh(t, "! iptables -t mangle -S | grep ec2net")
			noneFailed(t, i)
		})
	}
}
