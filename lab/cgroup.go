package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A cgroup is a control group for a machine that is booted by systemd. Unlike
// a namespace a control group stays until somebody removes it.
type cgroup struct {
	root   *os.File  // systemd's
	leaf   *os.File  // for processes outside of its units
	alive  io.Closer // while it is open, this process needs the group
	reaper *exec.Cmd
}

// reap waits for the end of its standard input, which comes at the latest when the
// process at the other end ends. Then it removes the group $1 as soon as nothing runs
// in it, or gives up after 90 seconds.
const reap = `cat
for i in $(seq 900); do
	find "$1" -depth -type d -exec rmdir {} +
	test -d "$1" || exit 0
	sleep 0.1
done`

// newCgroup makes a control group below this process's own.
func newCgroup(t *Tree) (*cgroup, error) {
	own, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	alive, aliveEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer alive.Close()
	g := &cgroup{alive: aliveEnd}
	err = onThread(func() error {
		// Version 2 may be mounted anywhere or nowhere on this machine.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("cannot make a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("cannot make the mounts private: %w", err)
		}
		if err := mount("cgroup2", t.scratch(), 0, ""); err != nil {
			return err
		}
		if err := unix.Chdir(filepath.Join(t.scratch(), own)); err != nil {
			return fmt.Errorf("cannot find this process's control group: %w", err)
		}
		name, err := os.MkdirTemp(".", "ec2net-lab-")
		if err != nil {
			return fmt.Errorf("cannot make a control group: %w", err)
		}
		// The reaper's tools are the tree's; its working folder stays where
		// it is, outside of its root.
		g.reaper = exec.Command("/bin/sh", "-c", reap, "reap", name)
		g.reaper.Stdin = alive
		g.reaper.SysProcAttr = &unix.SysProcAttr{Chroot: t.Dir, Setsid: true}
		if err := g.reaper.Start(); err != nil {
			_ = os.Remove(name)
			return fmt.Errorf("cannot watch over a control group: %w", err)
		}
		if g.root, err = os.Open(name); err != nil {
			return err
		}
		leaf := filepath.Join(name, "lab")
		if err := os.Mkdir(leaf, 0o755); err != nil {
			return err
		}
		g.leaf, err = os.Open(leaf)
		return err
	})
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// close removes the group once its processes have ended.
func (g *cgroup) close() {
	for _, dir := range []*os.File{g.root, g.leaf} {
		if dir != nil {
			_ = dir.Close()
		}
	}
	_ = g.alive.Close()
	if g.reaper != nil {
		_ = g.reaper.Wait()
	}
}

// ownCgroup returns the path of this process's control group of version 2:
// cgroups(7), "/proc/pid/cgroup".
func ownCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, nil
		}
	}
	return "", fmt.Errorf("this machine has no control groups of version 2, which systemd needs")
}
