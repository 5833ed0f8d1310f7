package endtoend

import (
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// Under systemd udev only starts a unit. The DHCP client outlives the unit, no unit
// fails, and a replayed "add" runs hotplug again.
func TestSystemd(t *testing.T) { onStacks(t, testSystemd) }

func testSystemd(t *testing.T, s stack) {
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			i := s.boot(t, v, lab.Setup{Release: release, Systemd: true, Prepare: "systemctl enable ec2net-scan.service"})
			i.WaitRunning(t)
			// On systemd's scale of 0 to 10. The two units that run ifup, and so an
			// administrator's commands, are not confined.
			for _, unit := range []string{"scan", "docker", "watch"} {
				i.Sh(t, "systemd-analyze security --no-pager --threshold=29 ec2net-"+unit+".service")
			}
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			i.WaitSh(t, "test inactive = $(systemctl is-active ec2net-hotplug@eth1.service)")
			answers(t, v, []*lab.Place{v.Client, v.Host(t, "10.0.0.99")}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
			oneClient(t, i, "eth1")

			// Another kind of event in between: the device is still an ENI's.
			i.Sh(t, "udevadm trigger --action=change /sys/class/net/eth1; udevadm settle")

			// Sent again: hotplug runs again, which mends what is missing.
			i.Sh(t, "ip rule del from 10.0.0.20; udevadm trigger --action=add /sys/class/net/eth1")
			i.WaitSh(t, "ip rule | grep -q 'from 10.0.0.20 lookup 1001'")
			oneClient(t, i, "eth1")

			// The network restarted: the ENI comes back.
			i.Sh(t, "systemctl restart "+s.service)
			i.WaitSh(t, "ip rule | grep -q 'from 10.0.0.20 lookup 1001'")
			waitUp(t, i, "eth1")
			i.Echo(t, 8)
			if err := v.Client.TCP("10.0.0.20:8"); err != nil {
				t.Errorf("after a restart of %s: %v", s.service, err)
			}

			eth1.Detach(t)
			i.WaitSh(t, "! test -e /run/ec2net/eth1.up && ! ip rule | grep -q 1001")
			if n := clients(t, i, "eth1"); n != 0 {
				t.Errorf("%d DHCP clients are left", n)
			}
			noneFailed(t, i)
		})
	}
}

// Where systemd-networkd runs, the confined units reach it, and write where it reads. Once
// it has read ec2net's file, a rule that is not its own stays.
func TestSystemdNetworkd(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	i := boot(t, v, lab.Setup{Docker: true, Systemd: true, Prepare: `
cp /usr/lib/systemd/networkd.conf.d/50-ec2net.conf /root
for unit in scan watch; do
	mkdir /etc/systemd/system/ec2net-$unit.service.d
	cat >/etc/systemd/system/ec2net-$unit.service.d/try.conf <<'EOF'
[Service]
ExecStartPre=sh -ec '>/etc/systemd/network/05-%p.network; networkctl reload; rm /etc/systemd/network/05-%p.network'
EOF
done
` + networkd})
	i.WaitRunning(t)
	i.Sh(t, "systemctl start ec2net-scan.service ec2net-watch.service"+configured)
	noneFailed(t, i)

	const rule = "ip rule add pref 700 from 192.0.2.1 lookup 700 protocol 236\n"
	const there = "ip rule | grep -q ^700:"
	i.Sh(t, rule+"networkctl reconfigure eth0"+configured+"! "+there)
	i.Sh(t, rule+"mv /root/50-ec2net.conf /usr/lib/systemd/networkd.conf.d; systemctl restart systemd-networkd.service"+configured+there)
	i.Sh(t, "networkctl reconfigure eth0"+configured+there)
	lacks(t, i.Log(t), "50-ec2net.conf:")
}

// While the unit waits for its next try, an "add" makes it try at once.
func TestTriedAtOnce(t *testing.T) { onStacks(t, testTriedAtOnce) }

func testTriedAtOnce(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	i := s.boot(t, v, lab.Setup{Systemd: true})
	i.WaitRunning(t)
	v.IMDS.Fault(imds.Fault{Status: 403})
	first, second := v.AddENI(t, "10.0.0.20"), v.AddENI(t, "10.0.1.20")
	first.Attach(t, "eth1")
	const state = "$(systemctl show --property=SubState --value ec2net-hotplug@eth1.service)"
	i.WaitSh(t, "test auto-restart = "+state)
	v.IMDS.Heal()
	first.Detach(t)
	second.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "test dead = "+state)
	if n := i.Sh(t, "systemctl show --property=NRestarts --value ec2net-hotplug@eth1.service"); n != "0\n" {
		t.Errorf("it was waited for, and tried again %s times", n)
	}
	answers(t, v, []*lab.Place{v.Client}, "10.0.1.20")
	noneFailed(t, i)
}

// Confined, the docker unit can still run either iptables.
func TestDockerUnit(t *testing.T) { onStacks(t, testDockerUnit) }

func testDockerUnit(t *testing.T, s stack) {
	for _, backend := range s.backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			i := s.boot(t, v, lab.Setup{Systemd: true, Prepare: "echo EC2NET_MARKS=yes >>/etc/default/ec2net; update-alternatives --set iptables /usr/sbin/iptables-" + backend})
			i.WaitRunning(t)
			eth1 := v.AddENI(t, "10.0.0.20")
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			i.Sh(t, `
rm -f /run/xtables.lock
iptables -t mangle -F
iptables -t mangle -X
systemctl start ec2net-docker.service
iptables -t mangle -S | grep -q -e '-j ec2net-docker'
sed -i s/EC2NET_MARKS=yes/EC2NET_MARKS=no/ /etc/default/ec2net
systemctl stop ec2net-docker.service
! iptables -t mangle -S | grep -q ec2net-docker`)
			noneFailed(t, i)
		})
	}
}

// Booted again on the same disk: with IMDS there, with IMDS gone, and with IMDS late.
func TestReboot(t *testing.T) { onStacks(t, testReboot) }

func testReboot(t *testing.T, s stack) {
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			eth2 := v.AddENI(t, "10.0.1.30")
			i := s.boot(t, v, lab.Setup{Release: release, Systemd: true, Prepare: "systemctl enable ec2net-scan.service"})
			i.WaitRunning(t)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")

			// Another ENI is attached meanwhile.
			i.Shutdown(t)
			eth2.Attach(t, "eth2")
			i.On(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			waitUp(t, i, "eth2")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.1.30")
			noneFailed(t, i)

			// IMDS is gone: ec2net uses the files that are there.
			v.IMDS.Fault(hang)
			i.Reboot(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			waitUp(t, i, "eth2")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.1.30")
			noneFailed(t, i)
			oneClient(t, i, "eth1")
			oneClient(t, i, "eth2")

			// An ENI is gone, and the other one has its name.
			v.IMDS.Heal()
			i.Shutdown(t)
			eth1.Detach(t)
			eth2.Detach(t)
			eth2.Attach(t, "eth1")
			i.On(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.30")
			lacks(t, i.State(t), "10.0.0.20", "10.0.0.21")
			noneFailed(t, i)

			// IMDS is late, and nothing is known of an ENI: the boot waits for neither.
			if release != "bookworm" {
				return
			}
			i.Shutdown(t)
			eth1.Attach(t, "eth2")
			v.IMDS.Fault(hang)
			i.On(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			time.Sleep(15 * time.Second) // and it has booted for some
			v.IMDS.Heal()
			waitUp(t, i, "eth2")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.1.30")
			noneFailed(t, i)
		})
	}
}

// oneClient fails unless an interface has one DHCP client.
func oneClient(t *testing.T, i *lab.Instance, name string) {
	t.Helper()
	if n := clients(t, i, name); n != 1 {
		t.Errorf("%d DHCP clients on %s\n%s", n, name, i.State(t))
	}
}

func clients(t *testing.T, i *lab.Instance, name string) int {
	t.Helper()
	all := i.Sh(t, "pgrep -a -x 'dhclient|dhcpcd' || :")
	n := strings.Count(all, "dhclient."+name+".pid") + strings.Count(all, "dhcpcd: "+name)
	if i.Run(t, lab.Cmd{Args: []string{"sh", "-c", "test -f /run/systemd/netif/leases/$(cat /sys/class/net/" + name + "/ifindex)"}}).Status == 0 {
		n++ // systemd-networkd
	}
	return n
}

func noneFailed(t *testing.T, i *lab.Instance) {
	t.Helper()
	if failed := i.Sh(t, "systemctl --failed --no-legend --plain"); strings.TrimSpace(failed) != "" {
		t.Errorf("failed units:\n%s%s", failed, i.Log(t))
	}
}
