package lab

import (
	"strings"
	"testing"
)

// The image boots: cloud-init takes the instance for one on EC2 and configures the
// primary, and nothing else does.
func TestImageBoots(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := NewVPC(t, Plan{})
			i := v.Boot(t, Setup{Release: release, Image: true})
			i.WaitRunning(t)
			i.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:7")
			imageIsUp(t, i, release)
			if yaml, _ := i.ReadFile(t, netplanYAML); release == "bookworm" && yaml != i.rendered()[netplanYAML] {
				t.Errorf("cloud-init writes\n%s\nrendered has\n%s", yaml, i.rendered()[netplanYAML])
			}

			i.Reboot(t)
			i.WaitRunning(t)
			i.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:7")
			imageIsUp(t, i, release)
		})
	}
}

func imageIsUp(t *testing.T, i *Instance, release string) {
	t.Helper()
	for command, want := range map[string]string{
		"networkctl --no-pager status eth0":     "Network File: /run/systemd/network/10-netplan-eth0.network",
		"ip -4 addr show dev eth0":              "10.0.0.10/24",
		"ip -4 route show default":              "default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.10 metric 100",
		"cloud-init query cloud_name":           "aws",
		"cat /etc/netplan/50-cloud-init.yaml":   "dhcp4: true",
		"cat /home/debian/.ssh/authorized_keys": "lab",
		"hostname":                              "ip-10-0-0-10",
		// By a package that only Debian 13 has.
		"cat /proc/sys/net/ipv4/conf/eth0/rp_filter": map[string]string{"bookworm": "0", "trixie": "2"}[release],
		// The resolver answers at once that there is no such name.
		"resolvectl query no.such.name 2>&1 || :": "'no.such.name' not found",
	} {
		if got := i.Sh(t, command); !strings.Contains(got, want) {
			t.Errorf("%s:\n%s\nlacks %q", command, got, want)
		}
	}
	if left := i.Sh(t, "find /etc/network/interfaces /run/network -maxdepth 0 2>/dev/null || :; command -v ifup || :; pgrep -a 'dhclient|dhcpcd' || :"); left != "" {
		t.Errorf("there is %s", left)
	}
}

// With what cloud-init renders there already, the image boots without it.
func TestImageRendered(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := NewVPC(t, Plan{})
			i := v.Boot(t, Setup{Release: release, Image: true, Rendered: true})
			i.WaitRunning(t)
			i.Echo(t, 7)
			i.WaitSh(t, "ip -4 route show default | grep -q 'via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.10 metric 100'")
			asks(t, v.Client, "10.0.0.10:7")
			if n := len(v.IMDS.Requests()); n != 0 {
				t.Errorf("somebody asked IMDS %d times", n)
			}
		})
	}
}
