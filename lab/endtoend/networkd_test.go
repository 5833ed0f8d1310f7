package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// imageReady prepares an image as the package does.
const imageReady = "systemctl enable ec2net-scan.service ec2net-watch.service\n"

// besideCloudInit leaves the ENIs to cloud-init too: its hotplug and its full configuration are
// as the image has them.
const besideCloudInit = "rm /etc/cloud/cloud.cfg.d/95-ec2net.cfg\n"

// onImages runs a test with the image of each release.
func onImages(t *testing.T, test func(t *testing.T, release string)) {
	t.Helper()
	t.Parallel()
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			test(t, release)
		})
	}
}

// An ENI is attached to an instance as Debian's images boot it, detached, and attached again;
// then the instance boots with it.
func TestImagePlug(t *testing.T) {
	onImages(t, func(t *testing.T, release string) {
		v := lab.NewVPC(t, lab.Plan{})
		eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
		i := boot(t, v, lab.Setup{Release: release, Image: true, Prepare: imageReady})
		i.WaitRunning(t)
		eth1.Attach(t, "eth1")
		waitUp(t, i, "eth1")
		all := []string{"10.0.0.10", "10.0.1.20", "10.0.1.21"}
		answers(t, v, []*lab.Place{v.Client}, all...)
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
	})
}

// Cloud-init has configured the ENI by netplan before ec2net sees it, or does at the same
// moment. ec2net takes it over, and gives it back when told to.
func TestImageBesideCloudInit(t *testing.T) {
	onImages(t, func(t *testing.T, release string) {
		v := lab.NewVPC(t, lab.Plan{})
		eth1, eth2 := v.AddENI(t, "10.0.1.20", "10.0.1.21"), v.AddENI(t, "10.0.1.30")
		eth1.Attach(t, "eth1")
		i := boot(t, v, lab.Setup{Release: release, Image: true, Prepare: imageReady + besideCloudInit})
		i.WaitRunning(t)
		waitUp(t, i, "eth1")
		all := []string{"10.0.0.10", "10.0.1.20", "10.0.1.21"}
		i.WaitSh(t, "ec2net status")
		answer(t, []*lab.Place{v.Client}, all...)
		i.Sh(t, `journalctl -t ec2net | grep "eth1: systemd-networkd has read /etc/systemd/network/05-ec2net-eth1.network, in the place of cloud-init's /run/systemd/network/10-netplan-eth1.network"`)
		if rules := i.Sh(t, "ip rule | grep -v -e 'proto 236' -e 'lookup local' -e 'lookup main' -e 'lookup default' || :"); rules != "" {
			t.Errorf("cloud-init's rules are left:\n%s", rules)
		}

		eth2.Attach(t, "eth2") // cloud-init's hotplug comes too, on Debian 13
		waitUp(t, i, "eth2")
		i.Sh(t, "while systemctl list-units --no-legend cloud-init-hotplugd.service | grep -q -e activating -e ' active'; do sleep 0.5; done")
		i.WaitSh(t, "ec2net status")
		answer(t, []*lab.Place{v.Client}, append(all, "10.0.1.30")...)

		i.Sh(t, "echo EC2NET_TAKE_OVER=no >>/etc/default/ec2net; ec2ifdown eth1")
		i.WaitSh(t, "networkctl --no-pager status eth1 | grep -q 10-netplan-eth1.network && ip -4 addr show dev eth1 | grep -q 10.0.1.20/24")
		lacks(t, i.Sh(t, "ip rule; ip route show table all; ls /etc/systemd/network"), "1001: ", "table 1001", "eth1.network")
		i.Sh(t, "ec2net status eth1 | grep 'left alone' | grep 'cloud-init configures it, by /etc/netplan/50-cloud-init.yaml'")
		noneFailed(t, i)
	})
}

// What an administrator has written for netplan or networkd stays as it is.
func TestImageAdministrator(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1, eth2 := v.AddENI(t, "10.0.1.20", "10.0.1.21"), v.AddENI(t, "10.0.1.30")
	i := boot(t, v, lab.Setup{Image: true, Prepare: imageReady + `
printf 'network:\n  ethernets:\n    mine:\n      match: {macaddress: "02:00:0a:00:01:14"}\n      dhcp4: true\n      dhcp4-overrides: {route-metric: 700}\n      optional: true\n' >/etc/netplan/60-mine.yaml
chmod 600 /etc/netplan/60-mine.yaml
printf '[Match]\nMACAddress=02:00:0a:00:01:1e\n[Network]\nDHCP=ipv4\n[DHCPv4]\nRouteMetric=800\n' >/etc/systemd/network/30-mine.network
`})
	i.WaitRunning(t)
	before := i.Sh(t, "ip rule")
	eth1.Attach(t, "eth1")
	eth2.Attach(t, "eth2")
	for name, by := range map[string]string{"eth1": "/etc/netplan/60-mine.yaml", "eth2": "/etc/systemd/network/30-mine.network"} {
		i.WaitSh(t, "journalctl -t ec2net | grep -q '"+name+": is left alone: .*"+by+"'")
		i.WaitSh(t, "ip -4 addr show dev "+name+" | grep -q 10.0.1")
		i.Sh(t, "ec2net status "+name+" | grep 'left alone' | grep "+by)
		if r := i.Run(t, lab.Cmd{Args: []string{"ec2ifup", name}}); r.Status != 6 || !strings.Contains(r.Stderr, "hint: ") {
			t.Errorf("ec2ifup %s: %+v", name, r)
		}
	}
	if now := i.Sh(t, "ip rule"); now != before {
		t.Errorf("rules:\n%s\nbefore:\n%s", now, before)
	}
	i.Sh(t, "test -z \"$(ls /etc/systemd/network | grep ec2net)\"")

	i.Sh(t, "mv /etc/netplan/60-mine.yaml /root; netplan apply"+unmanaged("eth1")+"ec2ifup eth1")
	i.Sh(t, "printf '\n[Link]\nUnmanaged=yes\n' >>/etc/systemd/network/30-mine.network; networkctl reload"+unmanaged("eth2")+"ec2ifup eth2")
	i.WaitSh(t, "ec2net status")
	answer(t, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21", "10.0.1.30")

	// The administrator takes eth1 back.
	i.Sh(t, "mv /root/60-mine.yaml /etc/netplan; ec2ifdown eth1; netplan apply; ! ec2ifup eth1")
	i.WaitSh(t, "networkctl --no-pager status eth1 | grep -q 10-netplan-mine.network && ip route show default | grep -q 'dev eth1 .*metric 700'")
	i.Sh(t, "ec2net status eth1 | grep 'left alone' | grep /etc/netplan/60-mine.yaml; ! ls /etc/systemd/network/05-ec2net-eth1.network")

	// And eth2, by a drop-in.
	i.Sh(t, "mkdir /etc/systemd/network/05-ec2net-eth2.network.d; printf '[Link]\nUnmanaged=yes\n' >/etc/systemd/network/05-ec2net-eth2.network.d/x.conf; ec2ifdown eth2; networkctl reload"+unmanaged("eth2")+"! ec2ifup eth2")
	i.Sh(t, "ec2net status eth2 | grep 'left alone' | grep eth2.network.d/x.conf")
	noneFailed(t, i)
}

// unmanaged goes on a script when networkd has found that it has no file for an interface.
func unmanaged(name string) string {
	return "; until networkctl --no-legend list " + name + " | grep -q unmanaged; do sleep 0.1; done; "
}

// Cloud-init begins anew; and an image is made of an instance with ec2net and booted as another
// instance, whose ENIs have other MACs.
func TestImageAgain(t *testing.T) {
	onImages(t, func(t *testing.T, release string) {
		v := lab.NewVPC(t, lab.Plan{})
		eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
		i := boot(t, v, lab.Setup{Release: release, Image: true, Prepare: imageReady})
		i.WaitRunning(t)
		eth1.Attach(t, "eth1")
		waitUp(t, i, "eth1")
		i.Sh(t, "cloud-init clean --logs")
		i.Reboot(t)
		i.WaitRunning(t)
		waitUp(t, i, "eth1")
		i.Echo(t, 7)
		answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
		baked := i.Sh(t, "tar -C / -cz etc/netplan etc/systemd/network etc/machine-id var/lib/ec2net | base64 -w 0")

		v = lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.50"}})
		eth1 = v.AddENI(t, "10.0.1.30", "10.0.1.31")
		eth1.Attach(t, "eth1")
		i = boot(t, v, lab.Setup{Release: release, Image: true, Prepare: imageReady + "base64 -d <<EOF | tar -C / -xz\n" + baked + "\nEOF\n"})
		i.WaitRunning(t)
		waitUp(t, i, "eth1")
		i.WaitSh(t, "ec2net status")
		answers(t, v, []*lab.Place{v.Client}, "10.0.0.50", "10.0.1.30", "10.0.1.31")
		noneFailed(t, i)
	})
}

// An ENI has another name when it comes again, and its former name is an alternative one, as
// those of its slot are on EC2: networkd goes on with ec2net's file for the former name.
func TestImageFormerName(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := boot(t, v, lab.Setup{Image: true, Rendered: true, Prepare: imageReady})
	i.WaitRunning(t)
	eth1.Attach(t, "ens6")
	waitUp(t, i, "ens6")
	eth1.Detach(t)
	waitDown(t, i, "ens6")
	i.WriteFile(t, "/etc/systemd/network/10-eth1.link", "[Match]\nOriginalName=eth1\n[Link]\nAlternativeName=ens6\n")
	i.Sh(t, "udevadm control --reload")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
	i.Sh(t, "networkctl --no-pager status eth1 | grep 05-ec2net-eth1.network; ! ls /etc/systemd/network/05-ec2net-ens6.network; ip link show dev ens6")
	noneFailed(t, i)
}

// Without refreshes, a lease that networkd renews is when ec2net asks IMDS.
func TestImageLease(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20")
	i := boot(t, v, lab.Setup{Image: true, Rendered: true, Prepare: imageReady + "echo EC2NET_REFRESH=0 >>/etc/default/ec2net\n"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.WaitSh(t, "! pgrep -f '[e]c2net refresh'")
	eth1.Assign(t, "10.0.1.21")
	v.Primary.Assign(t, "10.0.0.11")
	i.Sh(t, "networkctl renew eth1")
	i.WaitSh(t, "ip -4 addr show dev eth1 | grep -q 10.0.1.21/32 && ip rule | grep -q 'from 10.0.1.21 lookup 1001' && ip -4 addr show dev eth0 | grep -q 10.0.0.11/32")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.11", "10.0.1.20", "10.0.1.21")
}
