package lab

import (
	"strings"
	"testing"
)

func TestSystemd(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := NewVPC(t, Plan{})
			e := v.AddENI(t, "10.0.1.20")
			i := v.Boot(t, Setup{Release: release, Systemd: true, Files: map[string]string{
				"/etc/network/interfaces.d/eth1.cfg": "allow-hotplug eth1\n" + eth1Stanza,
				"/etc/udev/rules.d/53-test.rules": `SUBSYSTEM=="net", ACTION=="add", KERNEL=="eth1", ` +
					`RUN+="/usr/local/bin/seen udev", TAG+="systemd", ENV{SYSTEMD_WANTS}+="seen@%k.service"` + "\n",
				"/etc/systemd/system/seen@.service": "[Unit]\nAfter=ifup@%i.service\n[Service]\nType=oneshot\nExecStart=/usr/local/bin/seen %i\n",
				"/usr/local/bin/seen": `#!/bin/sh
wait=30
test "$1" != udev || wait=1
status=$(curl --silent --max-time $wait --output /dev/null --write-out '%{http_code}' http://169.254.169.254/)
echo "$1 $status" >> /var/seen
logger --tag seen "$1"
`,
			}})
			i.WaitRunning(t)
			i.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:7")

			// Debian's own rule raises it: ifup@eth1.service.
			e.Attach(t, "eth1")
			i.WaitSh(t, "ip -oneline address show dev eth1 | grep -qF 'inet 10.0.1.20/24' && grep -q eth1 /var/seen")
			// As on a machine, udevd's programs may not talk to anybody: the
			// unit systemd-udevd.service has IPAddressDeny=any.
			if got, _ := i.ReadFile(t, "/var/seen"); got != "udev 000\neth1 401\n" {
				t.Errorf("asked for metadata: %q", got)
			}
			i.WaitFor(t, "the journal", func() bool { return strings.Contains(i.Log(t), ": eth1\n") })
			i.Sh(t, "echo kept > /etc/marker; echo lost > /run/marker; ip rule add pref 1001 lookup 1001")

			i.Reboot(t)
			i.WaitRunning(t)
			i.WaitSh(t, "ip -oneline address show dev eth1 | grep -qF 'inet 10.0.1.20/24'")
			if got, _ := i.ReadFile(t, "/etc/marker"); got != "kept\n" {
				t.Errorf("after a reboot the disk has %q", got)
			}
			if _, ok := i.ReadFile(t, "/run/marker"); ok {
				t.Error("after a reboot /run is as before")
			}
			if rules := i.Sh(t, "ip rule"); strings.Contains(rules, "1001:") {
				t.Errorf("after a reboot there are the rules\n%s", rules)
			}
			if log := i.Log(t); strings.Count(log, "systemd[1]: Startup finished in") != 1 {
				t.Errorf("the journal of one boot:\n%s", log)
			}
			// The client outside may get no answer: which ENI has the default
			// route is random.
			i.Echo(t, 7)
			asks(t, v.Host(t, "10.0.0.9"), "10.0.0.10:7")

			if release != "bookworm" {
				return // the rest does not depend on the release
			}
			// Unsynced files are there too: the disk is in memory.
			i.Crash(t)
			e.Detach(t)
			i.On(t)
			i.WaitBooted(t)
			if got := strings.Fields(i.Sh(t, "cat /etc/marker; ls /sys/class/net")); strings.Join(got, " ") != "kept eth0 lo" {
				t.Errorf("after a crash and a detachment: %q", got)
			}
		})
	}
}
