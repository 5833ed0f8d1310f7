// Package hooks handles the events of a machine, each in a file of its own: an ENI is
// attached or detached, a lease, a scan, docker. All of them go through converge, which
// looks at the whole machine, and changes what differs from what it should have.
package hooks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
)

// Source is where facts come from: IMDS.
type Source interface {
	ENI(ctx context.Context, name string, mac facts.MAC, n facts.Numbers) (facts.ENI, error)
	MACs(ctx context.Context) ([]facts.MAC, error)
}

// Templates render files: render.Templates, or an error in their place.
type Templates interface {
	Render(ctx context.Context, stack render.Stack, e facts.ENI, only ...string) ([]render.File, error)
	Docker(ctx context.Context, enis []facts.ENI, group int) (render.File, error)
}

// Kernel is the part of the running system that hooks look at and change: package
// kernel, or for tests a kernel in memory.
type Kernel interface {
	// Links lists the interfaces.
	Links() ([]plan.Link, error)
	// Look reads the state that a plan needs; scope chooses the routes, given the links.
	Look(scope func([]plan.Link) plan.Scope) (plan.State, error)
	// Apply makes one change.
	Apply(plan.Change) error
	// Source returns the source address that the kernel would choose for packets to an
	// address; not valid if no route leads there.
	Source(to netip.Addr) netip.Addr
	// Forwards reports whether the machine forwards packets that come in by any interface.
	Forwards() bool
	// Watch signals every change of the kernel's network, until ctx ends.
	Watch(ctx context.Context) (*kernel.Watch, error)
}

// Log is the system log. Info says what ec2net changed, and why; Warn says what needs a
// person. Neither blocks.
type Log interface {
	Info(iface, format string, args ...any)
	Warn(iface, format string, args ...any)
}

// Host is the machine that the hooks change.
type Host struct {
	Kernel Kernel
	Source Source
	// IMDS is the address that Source asks; not valid if an administrator has set a host
	// name in its place.
	IMDS      netip.Addr
	Templates Templates
	// Tree is the machine's root folder.
	Tree    *disk.Tree
	Numbers facts.Numbers
	// Stack is what brings the ENIs up; empty: whatever manages the primary.
	Stack render.Stack
	// LeaveCloudInit says that an ENI which cloud-init configures stays cloud-init's.
	LeaveCloudInit bool
	// NoAddresses says that somebody else gives the ENIs their secondary addresses.
	NoAddresses bool
	// Marks says whether packets get marks.
	Marks Marks
	// Every is how often Watch asks IMDS; 0: never.
	Every time.Duration
	// Unmanaged are the interfaces that ec2net leaves alone, by its settings.
	Unmanaged Patterns
	Log       Log
	// Replay asks udev for another "add" of an interface.
	Replay func(iface string) error
	// Unplug has an ENI taken down that is gone, as udev's "remove" does.
	Unplug func(iface string) error
	// Later asks IMDS for an ENI again, in the background.
	Later func(iface string) error
	// Run runs a program and waits for it: ifup, ifdown, iptables. On a status other
	// than 0 the error has the method ExitCode, as exec.ExitError does.
	Run func(ctx context.Context, program string, args ...string) error
	// Output is Run for a program whose stdout matters: iptables-save.
	Output func(ctx context.Context, program string, args ...string) ([]byte, error)
}

// UnmanagedError says that ec2net leaves an interface alone.
type UnmanagedError struct{ Name, Why, Try string }

func (e *UnmanagedError) Error() string { return fmt.Sprintf("%s is left alone: %s", e.Name, e.Why) }

// Status says that another try would end the same.
func (*UnmanagedError) Status() fault.Status { return fault.NoRetry }

// Hint says how to give the interface to ec2net.
func (e *UnmanagedError) Hint() string { return e.Try }

// PrimaryError says that an interface is the primary ENI's.
type PrimaryError struct{ Name string }

func (e *PrimaryError) Error() string {
	return fmt.Sprintf("%s is the primary ENI, which ec2net never brings up or takes down", e.Name)
}

// Status says that another try would end the same.
func (*PrimaryError) Status() fault.Status { return fault.NoRetry }

// Patterns name interfaces: by their names, with * and ? as in a shell, by MAC, or by the
// id of the ENI.
type Patterns []string

// ParsePatterns parses patterns with blanks between them.
func ParsePatterns(text string) (Patterns, error) {
	p := Patterns(strings.Fields(text))
	for _, pattern := range p {
		_, notMAC := facts.ParseMAC(pattern)
		_, notName := path.Match(pattern, "eth1")
		if strings.Contains(pattern, ":") && notMAC != nil {
			return nil, fmt.Errorf("%.40q is not a MAC such as 02:00:00:00:01:20", pattern)
		} else if notName != nil || strings.ContainsAny(pattern, "/\\") {
			return nil, fmt.Errorf("%.40q is not a pattern such as eth*, a MAC or the id of an ENI", pattern)
		}
	}
	return p, nil
}

// match returns the pattern that names an interface; empty if there is none.
func (p Patterns) match(name string, mac facts.MAC, id string) string {
	i := slices.IndexFunc(p, func(pattern string) bool {
		if m, err := facts.ParseMAC(pattern); err == nil {
			return m == mac
		}
		ok, _ := path.Match(pattern, name)
		return ok || pattern == id
	})
	if i < 0 {
		return ""
	}
	return p[i]
}

// lock takes the lock of this name in /run/ec2net, and returns the function that
// releases it. It waits until ctx ends. The kernel releases the lock when the process
// ends, however it ends (flock(2)).
func (h *Host) lock(ctx context.Context, name string) (func(), error) {
	return h.lockAs(ctx, name, unix.LOCK_EX)
}

// lockAs is lock, exclusive or shared.
func (h *Host) lockAs(ctx context.Context, name string, how int) (func(), error) {
	for {
		unlock, held, err := h.flock(name, how)
		if err != nil || !held {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another ec2net has held %s for too long; fuser(1) shows which", lockPath(name))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func lockPath(name string) string { return filepath.Join(runDir, name+".lock") }

// lockThere reports whether anybody has taken a lock since boot.
func (h *Host) lockThere(name string) (bool, error) {
	names, err := h.Tree.List(runDir)
	return slices.Contains(names, filepath.Base(lockPath(name))), err
}

// tryLock takes a lock, unless another process holds it.
func (h *Host) tryLock(name string) (unlock func(), held bool, err error) {
	return h.flock(name, unix.LOCK_EX)
}

// flock takes a lock, exclusive or shared, unless another process holds it otherwise.
func (h *Host) flock(name string, how int) (unlock func(), held bool, err error) {
	f, err := h.Tree.OpenLock(lockPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		if err = h.Tree.MakeDir(runDir); err == nil {
			f, err = h.Tree.OpenLock(lockPath(name))
		}
	}
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, false, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, true, nil
	}
	return nil, false, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}

// run is Run with an error that names the command.
func (h *Host) run(ctx context.Context, program string, args ...string) error {
	if err := h.Run(ctx, program, args...); err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}
