package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// others prints what an image's own programs have configured and will configure: networkd,
// netplan and cloud-init.
const others = `
networkctl --no-pager --no-legend list | awk '{ print $2, $3, $4, $5 }'
for link in $(networkctl --no-pager --no-legend list | awk '{ print $2 }'); do
	networkctl --no-pager --lines=0 status $link | grep -e 'Network File' -e State: -e Address: -e Gateway: -e DNS:
done
netplan get
cloud-init query --format '{{cloud_name}} {{region}}'; cloud-init devel hotplug-hook --subsystem net query
cloud-init status
grep -v '^#' /etc/resolv.conf; hostname; ls /etc/cloud/cloud.cfg.d
ip rule | sed 's/^[0-9]*://' | sort
`

// ifupdowns prints what there is of ifupdown and of DHCP clients.
const ifupdowns = `
find /etc/network /run/network /etc/dhcp -type f 2>/dev/null | grep -v /ec2net$ || :
dpkg-query -W -f '${Package} ${db:Status-Status}\n' | grep -e ifupdown -e dhc | grep ' installed$' || :
`

// What the image's programs may have written while the package came and went.
const imageListing = "(" + listing + ") | grep -v -e ' */run/cloud-init' -e /var/lib/cloud -e /var/lib/apt/"

// On images with cloud-init, netplan and systemd-networkd: the package is installed, used,
// upgraded, removed, installed and purged. Nothing of ifupdown comes with it, interfaces that
// are up are never touched, and in the end all is as before: cloud-init's ENI is its again.
func TestPackageLifeOnImage(t *testing.T) {
	t.Parallel()
	debs := packages(t)
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
			eth1.Attach(t, "eth1")
			i := v.Boot(t, lab.Setup{Release: release, Image: true, Install: debs, Files: files})
			i.WaitRunning(t)
			i.Echo(t, 7)
			before, was, had := i.Sh(t, imageListing), i.Sh(t, others), i.Sh(t, ifupdowns)
			if !strings.Contains(was, "/run/systemd/network/10-netplan-eth1.network") {
				t.Fatalf("cloud-init has not configured eth1:\n%s", was)
			}
			t.Logf("without ec2net:\n%s\n%s", was, i.Sh(t, boottime))

			said := i.Sh(t, "apt-get -qq -y install /root/ec2net_1.0_amd64.deb 2>&1")
			t.Log(said)
			for _, want := range []string{"50-ec2net.conf when it is started again", "cloud-init configures no ENI but the primary"} {
				if !strings.Contains(said, want) {
					t.Errorf("installing does not say %q", want)
				}
			}
			sameState(t, "ifupdown's, installed", had, i.Sh(t, ifupdowns))
			if hotplug := i.Sh(t, "cloud-init devel hotplug-hook --subsystem net query"); hotplug != "disabled\n" {
				t.Errorf("cloud-init's hotplug is %s", hotplug)
			}
			noneFailed(t, i)

			i.Reboot(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99"), v.Host(t, "10.0.1.99")}
			all := []string{"10.0.0.10", "10.0.1.20", "10.0.1.21"}
			v.ResetCounters(t)
			answers(t, v, places, all...)
			noneFailed(t, i)
			critical(t, i)
			i.WaitSh(t, "! pgrep -f '[c]loud-init'")
			up := i.State(t)

			i.Sh(t, "dpkg -i /root/ec2net_1.1_amd64.deb")
			sameState(t, "upgraded", up, i.State(t))
			sameState(t, "ifupdown's, upgraded", had, i.Sh(t, ifupdowns))

			i.Sh(t, "dpkg -r ec2net")
			sameState(t, "removed", strings.Replace(up, "/usr/sbin/ec2net watch\n", "", 1), i.State(t))
			noneFailed(t, i)
			i.Sh(t, "dpkg -i /root/ec2net_1.1_amd64.deb")
			answers(t, v, places, all...)
			noneFailed(t, i)

			i.Sh(t, "dpkg -r ec2net")
			i.Reboot(t)
			i.WaitRunning(t)
			sameState(t, "the others, removed and booted", was, i.Sh(t, others))

			i.Sh(t, "dpkg -P ec2net")
			noneFailed(t, i)
			sameState(t, "purged", before, i.Sh(t, imageListing))
			sameState(t, "the others, purged", was, i.Sh(t, others))
		})
	}
}
