package lab

import "context"

// on boots.
func (i *Instance) on() error {
	m := &machine{disk: i.disk, hostname: "instance", script: idle, plug: i.plug}
	var err error
	switch {
	case i.setup.Systemd:
		err = i.bySystemd(m)
	case i.setup.Docker:
		m.script, m.syslog = dockerInit, true
		err = i.inCgroup(m)
	default:
		m.syslog = true
	}
	if err != nil {
		return err
	}
	if err := m.start(); err != nil {
		return err
	}
	i.machine = m
	if i.setup.Systemd {
		return nil
	}
	_, err = m.sh(i.ctx, standalone, nil)
	return err
}

// standalone does the work of an init system: it starts udevd, replays "add" for
// existing devices, and starts the network. It replays only network devices: the
// others are this machine's, whose own udevd would see the events as well.
const standalone = `
mkdir -p /run/network
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add --subsystem-match=net
udevadm settle --timeout=30
ifup -a
`

// plug prepares the network namespace of an instance that boots.
func (i *Instance) plug(n *netns) error {
	err := n.do(func() error {
		// The kernel's own defaults, whatever this machine's settings, which
		// new namespaces copy.
		return sysctl(
			"ipv4/conf/all/rp_filter", "0",
			"ipv4/conf/default/rp_filter", "0",
			"ipv4/ip_forward", "0",
			// Otherwise duplicate address detection takes a second after an
			// interface is up. In Debian's images for EC2 it is off as well.
			"ipv6/conf/default/accept_dad", "0",
		)
	})
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.net = n
	i.mu.Unlock()

	i.vpc.mu.Lock()
	i.vpc.instance = n
	enis := i.vpc.enis
	i.vpc.mu.Unlock()
	for _, e := range enis {
		e.mu.Lock()
		name := e.name
		e.mu.Unlock()
		if name == "" {
			continue
		}
		if err := e.plug(n, name); err != nil {
			return err
		}
	}
	return nil
}

// off is a power failure.
func (i *Instance) off() {
	i.vpc.mu.Lock()
	i.vpc.instance = nil
	i.vpc.mu.Unlock()
	if i.machine != nil {
		i.machine.kill()
		i.machine = nil
	}
}

// Crash turns the instance off as a power failure does. Its ENIs stay
// attached to it, others may be attached meanwhile.
func (i *Instance) Crash(tb TB) {
	tb.Helper()
	i.off()
}

// Shutdown turns the instance off in order: systemd stops what it started. Without
// systemd it is a Crash.
func (i *Instance) Shutdown(tb TB) {
	tb.Helper()
	if i.setup.Systemd {
		ctx, cancel := context.WithTimeout(tb.Context(), runWait)
		defer cancel()
		// It may be gone before it can say that it goes.
		_, _ = i.running(tb).run(ctx, Cmd{Args: []string{"systemctl", "poweroff"}})
		select {
		case <-i.machine.ended:
		case <-ctx.Done():
			tb.Fatalf("the instance does not shut down\n%s", i.Trouble())
		}
	}
	i.off()
}

// On turns the instance on again. The disk is as it was, all else is new.
func (i *Instance) On(tb TB) {
	tb.Helper()
	if err := i.on(); err != nil {
		tb.Fatalf("cannot boot again: %v\n%s", err, i.Trouble())
	}
}

// Reboot is Shutdown and On.
func (i *Instance) Reboot(tb TB) {
	tb.Helper()
	i.Shutdown(tb)
	i.On(tb)
}
