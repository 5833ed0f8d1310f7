// Package ifupdown brings interfaces up and takes them down by Debian's ifupdown. It
// alone reads interfaces(5).
package ifupdown

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"ec2net/disk"
	"ec2net/iproute"
	"ec2net/lines"
	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/ifupdown/interfaces"
)

// Stack is ifupdown on a machine.
type Stack struct {
	// Tree is the machine's root folder.
	Tree *disk.Tree
	// Run runs a program and waits for it: ifup, ifdown.
	Run func(ctx context.Context, program string, args ...string) error
	// Tell logs what Up does besides, and why.
	Tell func(iface, what string)
}

// Path is where the cfg file of an interface is.
func (s *Stack) Path(name string) string { return interfaces.Path(name) }

// Parse says what a cfg file means for an interface.
func (s *Stack) Parse(cfg []byte, name string) stack.Stanza {
	return stack.Stanza{Unmanaged: lines.Unmanaged(cfg), Generated: lines.Generated(cfg),
		Routes: iproute.Parse(interfaces.UpCommands(cfg, name)),
		Loose:  interfaces.Loose(cfg, name), NoIPv6: interfaces.NoIPv6(cfg, name), Marks: marks(string(cfg), name)}
}

// marks reports whether a stanza has a line for the marks. An administrator's template may
// have none; that of an earlier version loads the fragment itself.
func marks(cfg, name string) bool {
	for line := range strings.Lines(cfg) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "#") && (strings.Contains(line, "ec2net marks") || strings.Contains(line, "/"+name+".iptables")) {
			return true
		}
	}
	return false
}

// RunDir has a copy of the stanza that each interface was brought up by.
const RunDir = "/run/ec2net"

func copyPath(name string) string { return path.Join(RunDir, name+".cfg") }

// Cfg reads the cfg file of an interface; nil if there is none. It fails if something
// else is in its place, such as a folder.
func (s *Stack) Cfg(name string) ([]byte, error) { return s.Tree.Read(interfaces.Path(name)) }

// upBy reads the stanza that Up last brought an interface up by; nil if Up has not
// since boot, or Down has taken it down.
func (s *Stack) upBy(name string) ([]byte, error) { return s.Tree.Read(copyPath(name)) }

// Up brings an interface up by its stanza of now. ifup does nothing if ifupdown
// counts the interface as up already; if it is down all the same, or if somebody has brought
// it up by another stanza, Up runs ifdown first. Up keeps a copy of the stanza for Down, in
// case the file changes, or ifup fails or is killed half-way.
func (s *Stack) Up(ctx context.Context, link plan.Link, live bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	counted, err := s.countedUp(link.Name)
	if err != nil {
		return err
	}
	why := ""
	if counted && !link.Up {
		why = "is down, but ifupdown counts it as up"
	} else if counted && !live {
		changed, err := s.changed(link.Name)
		if err != nil {
			return err
		} else if changed {
			why = "was brought up by another stanza"
		}
	}
	if why != "" {
		s.Tell(link.Name, why+": running ifdown first")
		if _, err := s.Down(ctx, link); err != nil {
			return err
		}
		counted = false
	}
	if !counted {
		if err := s.keepCopy(link.Name); err != nil {
			return err
		}
	}
	return s.run(ctx, "ifup", link.Name)
}

func (s *Stack) keepCopy(name string) error {
	cfg, err := s.Cfg(name)
	if err != nil {
		return err
	}
	if cfg == nil {
		return s.Tree.Remove(copyPath(name)) // ifup will report it
	}
	_, err = s.Tree.Write(copyPath(name), cfg)
	return err
}

// Down takes an interface down by the stanza that Up brought it up by; if that is
// unknown, by the stanza of now. Without either, ifdown does not run; ran reports
// whether it did. It runs with --force, since after a failed ifup the DHCP client is
// left, and ifupdown does not count the interface as up.
func (s *Stack) Down(ctx context.Context, link plan.Link) (ran bool, err error) {
	name := link.Name
	kept, err := s.upBy(name)
	if err != nil {
		return false, err
	}
	if kept != nil {
		if err := s.run(ctx, "ifdown", "--force", "-i", copyPath(name), name); err != nil {
			return true, err
		}
		return true, s.Tree.Remove(copyPath(name))
	}
	if cfg, err := s.Cfg(name); err != nil || cfg == nil {
		return false, err
	}
	return true, s.run(ctx, "ifdown", "--force", name)
}

// Health says whether the stanza differs from the one that the interface was brought up
// by, and whether its DHCP client runs. Down and then Up mend both.
func (s *Stack) Health(_ plan.State, link plan.Link) (h stack.Health, err error) {
	if h.Changed, err = s.changed(link.Name); err != nil {
		return h, err
	}
	alive, err := s.clientAlive(link.Name)
	h.NoClient = !alive
	return h, err
}

// changed: a missing cfg file, or an unknown earlier stanza, is no change.
func (s *Stack) changed(name string) (bool, error) {
	kept, err := s.upBy(name)
	if err != nil || kept == nil {
		return false, err
	}
	cfg, err := s.Cfg(name)
	return cfg != nil && !bytes.Equal(kept, cfg), err
}

// countedUp reports whether ifupdown counts an interface as up, even if others have
// taken it down: /run/network/ifstate has its name, and the stanza's.
func (s *Stack) countedUp(name string) (bool, error) {
	state, err := s.Tree.Read("/run/network/ifstate")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(state)) {
		if strings.HasPrefix(line, name+"=") {
			return true, nil
		}
	}
	return false, nil
}

// run is Run with the command in the error.
func (s *Stack) run(ctx context.Context, program string, args ...string) error {
	if err := s.Run(ctx, program, args...); err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}

// Installed reports whether ifup is there.
func Installed(tree *disk.Tree) (bool, error) {
	for _, file := range []string{"/sbin/ifup", "/usr/sbin/ifup"} {
		_, err := tree.Modified(file)
		if !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}
