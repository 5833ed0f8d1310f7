package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// A disk has the files that a machine wrote over its tree. It exists as long as this
// process holds it, whether the machine runs or not.
type disk struct {
	tree *Tree
	mnt  *os.File // the mount namespace that a tmpfs lives in
}

func newDisk(t *Tree) (*disk, error) {
	d := &disk{tree: t}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("cannot make a mount namespace: %w", err)
		}
		unix.Umask(0)
		if err := t.mountDisk(); err != nil {
			return err
		}
		d.mnt, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a disk: %w", err)
	}
	return d, nil
}

// enter is [Tree.enter] with the disk in place of a throwaway one. It returns
// the new network namespace, in which lo is still down.
func (d *disk) enter() (*netns, error) {
	// Only a thread that shares its root folder with no other can enter a mount
	// namespace: setns(2).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("cannot have a root of its own: %w", err)
	}
	if err := unix.Setns(int(d.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot enter the disk's namespace: %w", err)
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if err := unix.Unshare(namespaces); err != nil {
		return nil, fmt.Errorf("cannot make namespaces: %w", err)
	}
	unix.Umask(0)
	n, err := currentNetns()
	if err != nil {
		return nil, err
	}
	if err := d.tree.pivot(); err != nil {
		return n, err
	}
	return n, populate()
}

// machineInit begins process 1 of a machine. A machine may change only its network's
// settings: most of /proc/sys is the host's. Each boot has an ID of its own, by which
// the journal tells boots apart. It writes to file descriptor 3 when the machine is
// ready.
const machineInit = `umask 022
mount -n -t proc proc /proc &&
mount -n -o bind /proc/sys /proc/sys &&
mount -n -o bind /proc/sys/net /proc/sys/net &&
cat /proc/sys/kernel/random/uuid >/run/boot_id &&
mount -n -o bind /run/boot_id /proc/sys/kernel/random/boot_id &&
mount -n -o remount,bind,ro /proc/sys || exit 125
`

// idle is process 1 of a machine without an init system: it collects orphans.
const idle = machineInit + `echo >&3
exec 3>&-
while :; do sleep 1000000; done`

// A machine is a tree with a disk that runs, in mount, PID, net, UTS and IPC
// namespaces of its own. It runs until it is killed, at the latest with this
// process.
type machine struct {
	*disk
	hostname string
	script   string   // process 1
	env      []string // its environment
	cgroup   *cgroup  // the machine's, or nil
	syslog   bool     // listen on /dev/log

	// Before process 1 starts, plug fills the network namespace.
	plug func(*netns) error

	net     *netns
	log     *syslog
	pidfd   int           // of process 1
	ended   chan struct{} // closed when process 1 has ended
	running bool          // kill has to be called
}

var errEnded = errors.New("the machine has ended")

// start returns when the machine is ready.
func (m *machine) start() error {
	m.ended = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// This thread's end ends process 1.
		_ = onThread(func() error {
			cmd, err := m.prepare()
			started <- err
			if err != nil {
				return err
			}
			return cmd.Wait()
		})
		if m.log != nil {
			m.log.close()
		}
		close(m.ended)
	}()
	if err := <-started; err != nil {
		<-m.ended
		if m.net != nil {
			m.net.close()
		}
		return fmt.Errorf("cannot start machine %s: %w", m.hostname, err)
	}
	m.running = true
	return nil
}

// prepare does what start does on the machine's thread.
func (m *machine) prepare() (cmd *exec.Cmd, err error) {
	if m.net, err = m.enter(); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte(m.hostname)); err != nil {
		return nil, fmt.Errorf("cannot set the host name: %w", err)
	}
	if m.syslog {
		if m.log, err = listenSyslog("/dev/log"); err != nil {
			return nil, err
		}
	}
	if m.plug != nil {
		if err := m.plug(m.net); err != nil {
			return nil, err
		}
	}

	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	defer readyEnd.Close()
	output, err := memoryFile("init")
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd = exec.Command("/bin/sh", "-c", m.script, "init")
	cmd.Env = append([]string{path}, m.env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{readyEnd}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true,
		PidFD:      &m.pidfd,
	}
	if m.cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(m.cgroup.root.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_ = readyEnd.Close()
	if n, _ := ready.Read(make([]byte, 1)); n == 0 {
		_ = cmd.Process.Kill()
		err := cmd.Wait()
		_ = unix.Close(m.pidfd)
		return nil, fmt.Errorf("process 1: %w\n%s", err, contents(output))
	}
	return cmd, nil
}

// kill ends the machine as a power failure does.
func (m *machine) kill() {
	if !m.running {
		return
	}
	m.running = false
	_ = unix.PidfdSendSignal(m.pidfd, unix.SIGKILL, nil, 0)
	<-m.ended
	_ = unix.Close(m.pidfd)
	m.net.close()
}

// inside runs f on a thread that is in the machine: in its namespaces and its
// root. What f starts is a process of the machine.
func (m *machine) inside(f func() error) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // see disk.enter
			return fmt.Errorf("cannot have a root of its own: %w", err)
		}
		const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
			unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
		if err := unix.Setns(m.pidfd, namespaces); err != nil {
			select {
			case <-m.ended:
				return errEnded
			default:
				return fmt.Errorf("cannot enter machine %s: %w", m.hostname, err)
			}
		}
		unix.Umask(0)
		return f()
	})
}

// run runs a command and returns when it has ended, whatever it left running.
func (m *machine) run(ctx context.Context, c Cmd) (r Result, err error) {
	p, err := m.begin(ctx, c)
	if err != nil {
		return r, err
	}
	defer p.stdout.Close()
	defer p.stderr.Close()
	return p.wait()
}

// listen opens a listening socket in the machine's network namespace.
func (m *machine) listen(network, address string) (l net.Listener, err error) {
	err = m.net.do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}
