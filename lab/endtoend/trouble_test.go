package endtoend

import (
	"strings"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// An ENI is incomplete in IMDS at first: ec2net waits, and writes nothing provisional.
func TestProvisional(t *testing.T) { onStacks(t, testProvisional) }

func testProvisional(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20")
	i := s.boot(t, v, lab.Setup{})
	eth1.Describe(lab.Provisional)
	eth1.Attach(t, "eth1")
	i.WaitFor(t, "IMDS to be asked again for it", func() bool {
		n := 0
		for _, r := range v.IMDS.Requests() {
			if strings.HasSuffix(r.Path, eth1.MAC+"/") {
				n++
			}
		}
		return n > 2
	})
	if _, ok := i.ReadFile(t, "/var/lib/ec2net/eth1.json"); ok {
		t.Error("provisional facts were written down")
	}
	eth1.Describe(nil)
	waitUp(t, i, "eth1")
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20")
}

// fails runs a command that has to fail with this status, within a time and the
// margin of a machine that is busy.
func fails(t *testing.T, i *lab.Instance, status int, within time.Duration, script string) {
	t.Helper()
	start := time.Now()
	r := i.Run(t, lab.Cmd{Args: []string{"sh", "-c", script}})
	if r.Status != status {
		t.Errorf("status %d of %s, want %d\n%s%s", r.Status, script, status, r.Stdout, r.Stderr)
	}
	if took := time.Since(start); took > within+margin {
		t.Errorf("%s took %v", script, took)
	}
}

// After bad input the log has a clear line with the interface, the status is the
// documented one, and old files and working rules stay.
func TestTrouble(t *testing.T) { onStacks(t, testTrouble) }

func testTrouble(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	eth2 := v.AddENI(t, "10.0.1.30")
	i := s.boot(t, v, lab.Setup{Prepare: "rm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules"})
	eth1.Attach(t, "eth1")
	eth2.Attach(t, "eth2")
	i.Sh(t, "env INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug")
	touchTables(t, i)
	i.Sh(t, "ip link set eth2 up; ip link set eth2 down")
	before := i.State(t)
	unchanged := func(what string) {
		t.Helper()
		sameState(t, what, before, i.State(t))
		if files := i.Sh(t, "find "+s.folder+" /var/lib/ec2net /run/ec2net -name '.*' -o -name '*eth2*' ! -name '*.lock'"); files != "" {
			t.Errorf("%s: left behind:\n%s", what, files)
		}
	}
	logged := func(words string) {
		t.Helper()
		i.WaitFor(t, "a line in the log: "+words, func() bool { return strings.Contains(i.Log(t), words) })
	}
	const add = "env INTERFACE=eth2 ACTION=add /etc/network/ec2net.hotplug"

	fails(t, i, 6, time.Second, "env INTERFACE=eth9 ACTION=add /etc/network/ec2net.hotplug")
	logged("eth9: there is no interface eth9 here")
	fails(t, i, 2, time.Second, "env INTERFACE=eth2 ACTION=change /etc/network/ec2net.hotplug")
	fails(t, i, 6, time.Second, "env INTERFACE=eth0 ACTION=add /etc/network/ec2net.hotplug")
	logged("eth0: is the primary ENI")
	unchanged("refused")

	v.IMDS.Fault(imds.Fault{Status: 403})
	fails(t, i, 3, 45*time.Second, add)
	logged("eth2: IMDS at http://169.254.169.254 answered 403")
	v.IMDS.Heal()
	unchanged("IMDS switched off")

	i.Sh(t, "mount -t tmpfs -o size=4k none /var/lib/ec2net && cat /dev/zero >/var/lib/ec2net/full 2>/dev/null || :")
	fails(t, i, 5, 5*time.Second, add)
	logged("eth2: cannot write the files of eth2: ")
	i.Sh(t, "umount /var/lib/ec2net")
	unchanged("disk full")

	i.Sh(t, "mount --bind "+s.folder+" "+s.folder+" && mount -o remount,ro,bind "+s.folder)
	fails(t, i, 5, 5*time.Second, add)
	i.Sh(t, "umount "+s.folder)
	unchanged("read-only")

	i.Sh(t, "mv "+s.program+" "+s.program+".not")
	fails(t, i, 5, 5*time.Second, add)
	logged(s.without)
	forget := "rm -f " + s.folder + "/*eth2* /var/lib/ec2net/eth2.* /run/ec2net/eth2.network; ip link set eth2 down; ip link set eth2 group 0"
	i.Sh(t, "mv "+s.program+".not "+s.program+"; "+forget)

	// It fails when there is a DHCP client already: nothing of that is left.
	i.Sh(t, s.fail)
	fails(t, i, 5, 20*time.Second, add)
	i.Sh(t, s.failNot+forget)
	unchanged("the ENI does not come up")

	i.Sh(t, add)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21", "10.0.1.30")

	if s.setup.Image {
		return // no DHCP client has a hook
	}
	// The folder of templates does not exist (yet): commands that need none go on.
	const lease = " /usr/sbin/ec2net lease --templates /srv/none"
	fails(t, i, 0, 5*time.Second, "env interface=eth1 reason=RELEASE old_ip_address=10.0.0.20"+lease)
	lacks(t, i.Sh(t, "ip rule"), "lookup 1001")
	fails(t, i, 2, 15*time.Second, "env interface=eth1 reason=BOUND new_ip_address=10.0.0.20"+lease)
	logged("eth1: --templates: stat /srv/none: no such file or directory")
	v.ResetCounters(t) // without its rules what was still on its way left by the primary
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.20", "10.0.0.21")
}
