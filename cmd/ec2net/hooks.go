package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/hooks"
	"ec2net/kernel"
	"ec2net/program"
	"ec2net/render"
)

// The time limits of a whole command.
const (
	noLimit      = 0               // until somebody ends it
	hotplugLimit = 8 * time.Minute // facts, and ifup with a DHCP server that does not answer
	leaseLimit   = 15 * time.Second
)

// hostSettings are the settings of the commands that change the machine.
var hostSettings = []string{"base", "mark-mask", "primary-table", "addresses", "marks", "stack", "take-over", "unmanaged", "templates", "imds-endpoint", "imds-endpoint-mode"}

var hotplugCommand = command{
	name:  "hotplug",
	also:  []string{"/etc/network/ec2net.hotplug"},
	args:  "[add | remove]",
	short: "configure an ENI that was attached, or take down one that was detached",
	long: `udev calls it, with INTERFACE and ACTION in the environment; an argument beats
ACTION. Called by udev, it only starts a unit (systemd) or goes on in the
background.`,
	words: []item{
		{"add", `Waits until IMDS knows the ENI, writes its files and brings it up, by systemd-networkd
or ifup. If the files exist already, it uses them at once, and asks IMDS afterwards.
The number of a name other than ethN depends on where the ENI is attached: for such a
name it first asks IMDS, for 5 seconds at most, whether the place is the same. It does
nothing before the primary ENI has an address.`},
		{"remove", "Takes it down. The files stay."},
	},
	examples: `env INTERFACE=eth1 ACTION=add /etc/network/ec2net.hotplug add
env INTERFACE=eth1 ec2net hotplug remove`,
	settings: hostSettings,
	prepare: func(flags *pflag.FlagSet) action {
		ifGone := flags.Bool("if-gone", false, "with remove: do nothing while the device that was brought up is there")
		return func(inv *invocation) error { return inv.hotplug(*ifGone) }
	},
}

func (inv *invocation) hotplug(ifGone bool) error {
	action := inv.env["ACTION"]
	if len(inv.args) > 0 {
		action = inv.args[0]
	}
	name := inv.env["INTERFACE"]
	switch {
	case len(inv.args) > 1 || (action != "add" && action != "remove"):
		return usageError(fmt.Sprintf("the action is add or remove, not %q", action), "ec2net help hotplug")
	case name == "":
		return usageError("which interface? INTERFACE is not in the environment", "ec2net help hotplug")
	}
	if err := facts.CheckName(name); err != nil {
		return usage(err)
	}
	if inv.env["DEVPATH"] != "" && inv.env["SUBSYSTEM"] == "net" {
		return inv.leaveUdev(name, action)
	}
	return inv.onHost(hotplugLimit, job{name, func(ctx context.Context, h *hooks.Host) error {
		switch {
		case action == "add":
			return h.Add(ctx, name)
		case ifGone:
			return h.RemoveIfGone(ctx, name)
		}
		return h.Remove(ctx, name)
	}})
}

var leaseCommand = command{
	name:  "lease",
	args:  "",
	short: "keep an ENI's rules and addresses current: DHCP clients call it",
	long: `The hooks of dhclient(8) and dhcpcd(8) call it, with interface, reason and
new_ip_address in the environment. A lease makes the ip rules and the secondary
addresses current; the end of a lease takes the rules away; other reasons do
nothing. systemd-networkd has no hook: watch sees its leases.`,
	examples: `interface=eth1 reason=RENEW new_ip_address=10.0.1.20 ec2net lease`,
	settings: hostSettings,
	prepare: noFlags(func(inv *invocation) error {
		l, err := hooks.LeaseFromEnvironment(func(name string) string { return inv.env[name] })
		if err != nil {
			return usage(err)
		}
		err = inv.onHost(leaseLimit, job{l.Interface, func(ctx context.Context, h *hooks.Host) error {
			return h.OnLease(ctx, l)
		}})
		var elsewhere *hooks.ElsewhereError
		if errors.As(err, &elsewhere) {
			return nil // it is in the log, and no failure of the container's DHCP client
		}
		return err
	}),
}

var scanCommand = command{
	name:  "scan",
	also:  []string{"ec2ifupscan", "ec2ifscan"},
	args:  "",
	short: "ask udev to add every ENI that is attached and not configured",
	long: `The boot calls it. udev sees "add" again for every attached ENI that is not
configured, whose name was configured for another ENI, or that lacks ip rules or
routes. An ENI that is gone and was not taken down is taken down.`,
	examples: `ec2ifupscan`,
	settings: hostSettings,
	prepare: noFlags(func(inv *invocation) error {
		return inv.onHost(leaseLimit, job{"scan", func(ctx context.Context, h *hooks.Host) error { return h.Scan(ctx) }})
	}),
}

var refreshCommand = command{
	name:  "refresh",
	args:  "[IFACE...]",
	short: "ask IMDS for ENIs that are up, and make rules and addresses current",
	long: `Without a name it asks once for each ENI that is up. For those that are named it
asks until IMDS answers, for 40 seconds at most; a command that used remembered facts
starts that in the background.`,
	byHand:   true,
	examples: "ec2net refresh\nec2net refresh eth1",
	settings: hostSettings,
	prepare: noFlags(func(inv *invocation) error {
		if len(inv.args) == 0 {
			return inv.onHost(hotplugLimit, job{"refresh", func(ctx context.Context, h *hooks.Host) error { return h.RefreshAll(ctx) }})
		}
		return inv.onNamed(hotplugLimit, func(ctx context.Context, h *hooks.Host, name string) error { return h.Refresh(ctx, name) })
	}),
}

var upCommand = upOrDown("up", "ec2ifup", "configure ENIs and bring them up now",
	`Configures the named ENIs as if they had just been attached. For one that is up it
makes files, rules, addresses and marks current. It says on stderr what it did, and
what only down and up again apply: a changed file, a DHCP client that is gone.`,
	func(ctx context.Context, h *hooks.Host, name string) error { return h.Up(ctx, name) })

var downCommand = upOrDown("down", "ec2ifdown", "take ENIs down",
	`Takes the named ENIs down as if they had been detached. The files stay; but
with EC2NET_TAKE_OVER=no an ENI that was cloud-init's becomes so again. An interface
that ec2net has never configured is left alone: exit status 6.`,
	func(ctx context.Context, h *hooks.Host, name string) error { return h.Down(ctx, name) })

func upOrDown(name, older, short, long string, do func(context.Context, *hooks.Host, string) error) command {
	return command{
		name: name, also: []string{older}, args: "IFACE...", short: short,
		long:     long,
		byHand:   true,
		examples: "ec2net " + name + " eth1\n" + older + " eth1",
		settings: hostSettings,
		prepare: noFlags(func(inv *invocation) error {
			return inv.onNamed(hotplugLimit, do)
		}),
	}
}

// onNamed runs a job for each interface that the arguments name.
func (inv *invocation) onNamed(limit time.Duration, do func(context.Context, *hooks.Host, string) error) error {
	if len(inv.args) == 0 {
		return usageError("which interface?", "ec2net help "+inv.command.name)
	}
	for _, iface := range inv.args {
		if err := facts.CheckName(iface); err != nil {
			return usage(err)
		}
	}
	var jobs []job
	for _, iface := range inv.args {
		jobs = append(jobs, job{iface, func(ctx context.Context, h *hooks.Host) error { return do(ctx, h, iface) }})
	}
	return inv.onHost(limit, jobs...)
}

// job is what a command does for one interface. Lines in the log begin with iface,
// which may be another word.
type job struct {
	iface string
	do    func(context.Context, *hooks.Host) error
}

// onHost runs jobs on this machine, each within a limit, up to the first that fails.
// The system log says what they change, and why one fails: a DHCP client in the
// background has no stderr.
func (inv *invocation) onHost(limit time.Duration, jobs ...job) error {
	if os.Geteuid() != 0 {
		return system(fmt.Errorf("ec2net %s needs root", inv.command.name))
	}
	log := inv.systemLog()
	defer log.Close()
	at := jobs[0].iface
	err := func() error {
		// If systemd, a person or the end of a terminal ends it, nothing is left half
		// done.
		signals := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
		if !signal.Ignored(syscall.SIGHUP) { // nohup(1) ignores it
			signals = append(signals, syscall.SIGHUP)
		}
		ctx, stop := signal.NotifyContext(context.Background(), signals...)
		defer stop()
		h, done, err := inv.host(inv.spoken(log))
		if err != nil {
			return err
		}
		defer done()
		for _, j := range jobs {
			at = j.iface
			if err := j.within(ctx, limit, h); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		inv.logFailure(log, at, err)
	}
	return err
}

func (j job) within(ctx context.Context, limit time.Duration, h *hooks.Host) error {
	if limit != noLimit {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return j.do(ctx, h)
}

// host opens the machine, with the settings in force.
func (inv *invocation) host(log hooks.Log) (*hooks.Host, func(), error) {
	first, _ := os.Readlink("/proc/1/ns/net") // in a sandbox even root may not read it
	tree, err := openMachine(first)
	if err != nil {
		return nil, nil, err
	}
	s, warnings, err := inv.settingsOnHost(tree)
	if err != nil {
		tree.Close()
		return nil, nil, err
	}
	if warnings != nil {
		inv.warn(strings.Join(warnings, "; "))
	}
	h, done, err := s.host(tree, log)
	if err != nil {
		tree.Close()
	}
	return h, done, err
}

// openMachine opens the machine's files, unless this process is in another network
// namespace than the machine's. first is the namespace of process 1: [hooks.Elsewhere].
func openMachine(first string) (*disk.Tree, error) {
	tree, err := disk.OpenMachine(hooks.OwnFolders...)
	if err != nil {
		return nil, system(err)
	}
	own, _ := os.Readlink("/proc/self/ns/net")
	if err := hooks.Elsewhere(tree, own, first); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// warn logs what a person has to mend.
func (inv *invocation) warn(line string) {
	inv.warned = line
	log := inv.systemLog()
	defer log.Close()
	log.Warn("", "%s", line)
	if inv.command.byHand {
		inv.say("%s", line)
	}
}

func (s settings) host(tree *disk.Tree, log hooks.Log) (*hooks.Host, func(), error) {
	source, err := facts.NewIMDS(s.imds)
	if err != nil {
		return nil, nil, usage(err)
	}
	k, err := kernel.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	h := &hooks.Host{Kernel: k, Source: source, Tree: tree, Log: log, Run: program.Run, Output: program.Output, Replay: replay,
		Unplug: func(iface string) error { return leave(iface, "remove") },
		Later:  func(iface string) error { return background("", "refresh", iface) }}
	s.apply(h)
	return h, func() { k.Close(); tree.Close() }, nil
}

// apply gives a host the settings, and the templates of now.
func (s settings) apply(h *hooks.Host) {
	h.IMDS, h.Numbers, h.Unmanaged, h.Marks, h.Every = s.imds.Address(), s.numbers, s.unmanaged, s.marks, s.refresh
	h.NoAddresses, h.Stack, h.LeaveCloudInit = !s.addresses, s.stack, !s.takeOver
	loaded, err := s.loadTemplates()
	if h.Templates = loaded; err != nil {
		h.Templates = brokenTemplates{err} // fails only where they are needed
	}
}

// brokenTemplates stands for templates that could not be read.
type brokenTemplates struct{ err error }

func (b brokenTemplates) Render(context.Context, render.Stack, facts.ENI, ...string) ([]render.File, error) {
	return nil, b.err
}

func (b brokenTemplates) Docker(context.Context, []facts.ENI, int) (render.File, error) {
	return render.File{}, b.err
}

// leaveUdev returns at once, since udev waits for it. Under systemd a unit does the
// work: there udev's own programs reach no network, and are killed with all that they
// start. Without systemd it goes on in the background.
func (inv *invocation) leaveUdev(name, action string) error {
	err := leave(name, action)
	if err != nil {
		// Nobody reads the output of a program of udev's.
		log := inv.systemLog()
		defer log.Close()
		inv.logFailure(log, name, err)
	}
	return err
}

// leave has a unit of systemd's, or a process in the background, do what an action of
// udev's needs.
func leave(name, action string) error {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		unit := "ec2net-hotplug@" + name + ".service"
		if action == "remove" {
			unit = "ec2net-unplug@" + name + ".service"
		}
		return start(unit)
	}
	if action == "remove" {
		return background(name, "hotplug", action, "--if-gone")
	}
	return background(name, "hotplug", action)
}

// While systemd executes itself anew, systemctl cannot connect. systemctlPause and
// systemctlPatience bound the tries; udev gives its programs three minutes.
const (
	systemctlPause    = 200 * time.Millisecond
	systemctlPatience = 20 * time.Second
)

// start starts a unit, and does not wait for it.
func start(unit string) error {
	for began := time.Now(); ; time.Sleep(systemctlPause) {
		verb := "start"
		// "start" would leave a unit that waits for its next try waiting, though the
		// ENI may be another one by now, or a person may have mended the cause.
		state, err := exec.Command("/bin/systemctl", "show", "--property=SubState", "--value", unit).CombinedOutput()
		if strings.TrimSpace(string(state)) == "auto-restart" {
			verb = "restart"
		}
		if err == nil {
			state, err = exec.Command("/bin/systemctl", "--no-block", verb, unit).CombinedOutput()
		}
		if err == nil {
			return nil
		}
		if time.Since(began) > systemctlPatience {
			return system(fmt.Errorf("systemctl %s %s: %w: %s", verb, unit, err, bytes.TrimSpace(state)))
		}
	}
}
