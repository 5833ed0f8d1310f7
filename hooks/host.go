package hooks

import (
	"context"
	"errors"
	"fmt"
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
	"ec2net/render"
)

// Source is where facts come from: IMDS.
type Source interface {
	ENI(ctx context.Context, name string, mac facts.MAC, n facts.Numbers) (facts.ENI, error)
	MACs(ctx context.Context) ([]facts.MAC, error)
}

// Templates render files: render.Templates, or an error in their place.
type Templates interface {
	Render(ctx context.Context, e facts.ENI, only ...string) ([]render.File, error)
	Docker(ctx context.Context, enis []facts.ENI, group int) (render.File, error)
}

// Host is the machine that the hooks change.
type Host struct {
	Kernel Kernel
	Source Source
	// IMDS is the address at which Source asks; not valid for one that an
	// administrator gives by name.
	IMDS      netip.Addr
	Templates Templates
	// Tree is the machine's root folder.
	Tree    *disk.Tree
	Numbers facts.Numbers
	// Unmanaged are the interfaces that the settings keep from ec2net.
	Unmanaged Patterns
	// Log writes a line to the system log.
	Log func(line string)
	// Replay has udev see "add" again for an interface.
	Replay func(iface string) error
	// Run runs a program and waits for it: ifup, ifdown, iptables. A status other
	// than 0 is an error with the method ExitCode, as exec.ExitError has it.
	Run func(ctx context.Context, program string, args ...string) error
}

func (h *Host) logf(iface, format string, args ...any) {
	h.Log(iface + ": " + fmt.Sprintf(format, args...))
}

// logChange says what was changed for an ENI, and why.
func (h *Host) logChange(iface string, c Change, why string) {
	if group, ok := c.(setGroup); ok {
		iface, why = group.link.Name, "the group of all ENIs; "+why+" of "+iface
	}
	h.logf(iface, "%s (%s)", c, why)
}

func (h *Host) state() state { return state{tree: h.Tree, numbers: h.Numbers} }

// UnmanagedError says that ec2net is not to touch an interface.
type UnmanagedError struct{ Name, Why string }

func (e *UnmanagedError) Error() string { return fmt.Sprintf("%s is left alone: %s", e.Name, e.Why) }

// Status is that of what another try does not change.
func (*UnmanagedError) Status() fault.Status { return fault.NoRetry }

// managed refuses an interface that an administrator keeps from ec2net.
func (h *Host) managed(name string) error {
	if h.Unmanaged.match(name) {
		return &UnmanagedError{name, "EC2NET_UNMANAGED names it"}
	}
	kept, err := h.state().unmanaged(name)
	if err == nil && kept {
		err = &UnmanagedError{name, "its cfg file says EC2SYNC=no"}
	}
	return err
}

// Patterns are names of interfaces, with * and ? as in a shell.
type Patterns []string

// ParsePatterns reads patterns with blanks between them.
func ParsePatterns(text string) (Patterns, error) {
	p := Patterns(strings.Fields(text))
	for _, pattern := range p {
		if _, err := path.Match(pattern, "eth1"); err != nil || strings.ContainsAny(pattern, "/\\") {
			return nil, fmt.Errorf("%.40q is not a pattern of names such as eth*", pattern)
		}
	}
	return p, nil
}

func (p Patterns) match(name string) bool {
	return slices.ContainsFunc(p, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

// lock takes the lock of this name in /run/ec2net, and gives the function that
// lets it go. It waits for it no longer than ctx. The kernel lets it go when
// the process ends, however it ends (flock(2)).
func (h *Host) lock(ctx context.Context, name string) (func(), error) {
	if err := h.Tree.MakeDir(runDir); err != nil {
		return nil, err
	}
	f, err := h.Tree.OpenLock(filepath.Join(runDir, name+".lock"))
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another ec2net has held %s for too long; fuser(1) shows which", f.Name())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return func() { f.Close() }, nil
}

// rounds is how often makeSo tries: a rule that is deleted by its looser
// spelling may take another with it, and others may change things meanwhile.
const rounds = 4

// makeSo changes the kernel until it has what is wanted, under the lock of the
// machine. why is for the log. links are the interfaces if the caller has asked
// for them a moment ago, nil otherwise.
//
// It returns what it saw last.
func (h *Host) makeSo(ctx context.Context, why string, links []Link, want func() (Wanted, error)) (*Actual, error) {
	unlock, err := h.lock(ctx, "kernel")
	if err != nil {
		return nil, err
	}
	defer unlock()
	w, err := want()
	if err != nil {
		return nil, err
	}
	for round := 1; ; round++ {
		actual, err := h.actual(links)
		if err != nil {
			return nil, fmt.Errorf("cannot ask the kernel: %w", err)
		}
		changes := plan(actual, w)
		if links != nil && len(changes) > 0 {
			// They are of before the lock was waited for.
			if actual.Links, err = h.Kernel.Links(); err != nil {
				return nil, fmt.Errorf("cannot ask the kernel: %w", err)
			}
			changes = plan(actual, w)
		}
		links = nil
		if err := w.stillThere(actual.Links); err != nil {
			return &actual, err
		}
		if len(changes) == 0 {
			return &actual, nil
		}
		if grouped := func(k KernelRule) bool { return isGroupRule(k, w.Known.Base) }; len(w.Rules) > 0 && !slices.ContainsFunc(actual.Rules, grouped) {
			for _, l := range w.Known.foreign(actual) {
				h.logf(l.Name, "is in the interface group %d, by somebody else's will, and stays there; without the rule %q answers to containers and VPNs may take the wrong way",
					l.Group, groupRule(w.Known.Base))
			}
		}
		again, failed := false, error(nil)
		added := true
		for _, c := range changes {
			if route, ok := c.(changeRoute); ok && !route.add && !added {
				continue // what was to take its place is not there
			}
			err := h.Kernel.Apply(c)
			added = err == nil
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", c, err))
				continue
			}
			again = again || c.takesAway()
			h.logChange(w.ENI.Name, c, why)
		}
		if failed == nil && !again {
			return &actual, nil
		}
		if round == rounds {
			if failed == nil {
				failed = errors.New("something keeps changing the rules back")
			}
			return &actual, failed
		}
	}
}

// actual is what the kernel has, with these links if there are any.
func (h *Host) actual(links []Link) (a Actual, err error) {
	if a.Links = links; links == nil {
		if a.Links, err = h.Kernel.Links(); err != nil {
			return a, err
		}
	}
	if a.Addrs, err = h.Kernel.Addrs(); err != nil {
		return a, err
	}
	if a.Rules, err = h.Kernel.Rules(); err != nil {
		return a, err
	}
	a.Routes, err = h.Kernel.Routes()
	return a, err
}

// link finds an interface by its name, among all.
func (h *Host) link(name string) (Link, []Link, error) {
	links, err := h.Kernel.Links()
	if err != nil {
		return Link{}, nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	l, ok := linkNamed(links, name)
	if !ok {
		return l, links, &GoneError{Name: name}
	}
	return l, links, nil
}
