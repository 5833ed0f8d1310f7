package lab

import (
	"context"
	"strings"
	"time"
)

// cgroupInit is machineInit for a machine that makes control groups: its own is the
// root of those that it sees. The rest of a quoted script has to follow.
const cgroupInit = machineInit + `grep -q '^0::.*/ec2net-lab-' /proc/self/cgroup || exit 125 # not this machine's
exec unshare --cgroup sh -c '
mount -n -t cgroup2 cgroup2 /sys/fs/cgroup || exit 125
`

// systemdInit boots systemd, with a file in the place of udevd's control socket:
// systemd looks for the socket before it starts udevd, and without it would ignore
// SYSTEMD_WANTS= for good.
const systemdInit = cgroupInit + `mkdir -p /run/udev
: >/run/udev/control
echo >&3
exec 3>&-
exec /lib/systemd/systemd'`

// systemdFiles has the files that an instance needs to boot in a namespace: at boot
// "add" is replayed only for the network's devices, not for those of this machine,
// whose own udevd would see the events as well.
var systemdFiles = map[string]string{
	"/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf": `[Service]
ExecStart=
ExecStart=-udevadm trigger --type=all --action=add --subsystem-match=net
`,
}

// bySystemd prepares a machine whose process 1 is systemd. The variable tells systemd
// that this is a container: systemd(1), "container". Cloud-init does not look for EC2
// in one.
func (i *Instance) bySystemd(m *machine) error {
	m.script = systemdInit
	if !i.setup.Image {
		m.env = []string{"container=other"}
	}
	return i.inCgroup(m)
}

// inCgroup gives a machine a control group of its own.
func (i *Instance) inCgroup(m *machine) (err error) {
	if i.cgroup != nil {
		i.cgroup.close()
	}
	i.cgroup, err = newCgroup(i.disk.tree)
	m.cgroup = i.cgroup
	return err
}

// WaitRunning waits until systemd has booted, and fails the test if a unit
// failed.
func (i *Instance) WaitRunning(tb TB) {
	tb.Helper()
	if state := i.WaitBooted(tb); state != "running" {
		tb.Fatalf("systemd is %q\n%s", state, i.Trouble())
	}
}

// WaitBooted waits until systemd has booted and returns the state that it is
// in, "running" or "degraded": systemctl(1), is-system-running.
func (i *Instance) WaitBooted(tb TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), runWait)
	defer cancel()
	for {
		r, err := i.running(tb).run(ctx, Cmd{Args: []string{"systemctl", "is-system-running", "--wait"}})
		if err != nil {
			tb.Fatalf("waiting for systemd: %v\n%s", err, i.Trouble())
		}
		// At first systemd does not answer yet.
		if state := strings.TrimSpace(r.Stdout); state != "offline" && state != "unknown" && state != "" {
			return state
		}
		time.Sleep(5 * eventPoll)
	}
}

// journal prints the journal of this boot.
const journal = "journalctl --no-pager --output=short-monotonic --boot=0"

// Log returns the system log of this boot: the journal, or the lines that were sent
// to /dev/log.
func (i *Instance) Log(tb TB) string {
	tb.Helper()
	if !i.setup.Systemd {
		return i.running(tb).log.String()
	}
	return i.Sh(tb, journal)
}
