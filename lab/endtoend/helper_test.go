package endtoend

import (
	"maps"
	"strings"
	"testing"

	"ec2net/lab"
)

// helperFiles bring interfaces up as Debian 11's cloud images do, the primary too: udev
// calls a helper, which writes a stanza for an interface that ifup does not know, and
// asks systemd to start it. The script is this test's own.
var helperFiles = map[string]string{
	"/etc/network/interfaces": `source-directory /etc/network/interfaces.d
source-directory /run/network/interfaces.d
source /etc/network/interfaces.d/*.cfg
`,
	"/etc/udev/rules.d/75-cloud-ifupdown.rules": `SUBSYSTEM=="net", ACTION=="add", ENV{INTERFACE}=="eth*|en*", RUN+="/etc/network/cloud-ifupdown-helper"
`,
	"/etc/network/cloud-interfaces-template": "auto $INTERFACE\nallow-hotplug $INTERFACE\niface $INTERFACE inet dhcp\n",
	"/etc/network/cloud-ifupdown-helper": `#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
if ! ifup --no-act "$INTERFACE" >/dev/null 2>&1; then
	mkdir -p /run/network/interfaces.d
	sed "s/[$]INTERFACE/$INTERFACE/g" /etc/network/cloud-interfaces-template >/run/network/interfaces.d/"$INTERFACE"
	systemctl --no-block start ifup@"$INTERFACE".service
fi
`,
}

// cloud-ifupdown-helper has brought eth1 up, and ec2net leaves it alone. The command in
// ec2net's hint gives eth1 to ec2net, now and after the next boot, and the primary
// stays the helper's.
func TestHelper(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	all := maps.Clone(files)
	maps.Copy(all, helperFiles)
	// ec2net comes later than the ENI.
	const rules = "/usr/lib/udev/rules.d/53-ec2-network-interfaces.rules"
	i := v.Boot(t, lab.Setup{Systemd: true, Install: installed, Files: all, Prepare: "mkdir -p /etc/network/interfaces.d; mv " + rules + " /root"})
	i.WaitRunning(t)
	i.Echo(t, 7)
	eth1.Attach(t, "eth1")
	i.WaitSh(t, "ip -4 addr show dev eth1 | grep -q 10.0.0.20 && ! systemctl list-jobs | grep -q ifup@")
	i.Sh(t, "mv /root/53-* "+rules+"; udevadm control --reload")

	r := i.Run(t, lab.Cmd{Args: []string{"ec2ifup", "eth1"}})
	_, hint, _ := strings.Cut(r.Stderr, "\nhint: ")
	command, _, isCommand := strings.Cut(hint, ":")
	if r.Status != 6 || !strings.Contains(r.Stderr, "cloud-ifupdown-helper has a stanza for it in /run/network/interfaces.d/eth1") || !isCommand {
		t.Fatalf("status %d\n%s", r.Status, r.Stderr)
	}
	primary := i.Sh(t, "pgrep -f '[d]hclient.*eth0'")
	i.Sh(t, command)
	places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99")}
	one := func(when string) {
		t.Helper()
		waitUp(t, i, "eth1")
		v.ResetCounters(t)
		answers(t, v, places, "10.0.0.10", "10.0.0.20", "10.0.0.21")
		if n := clients(t, i, "eth1"); n != 1 {
			t.Errorf("%s: %d DHCP clients", when, n)
		}
		if got := i.Sh(t, "ls /run/network/interfaces.d"); got != "eth0\n" {
			t.Errorf("%s: the helper has stanzas for\n%s", when, got)
		}
	}
	one("given to ec2net")
	if again := i.Sh(t, "pgrep -f '[d]hclient.*eth0'"); again != primary {
		t.Errorf("the primary's client was %s, and is %s", primary, again)
	}

	i.Reboot(t)
	i.Echo(t, 7)
	i.WaitRunning(t)
	one("booted")

	eth1.Detach(t)
	waitDown(t, i, "eth1")
	eth1.Attach(t, "eth1")
	one("plugged in again")
}
