// Package ifupdown brings interfaces up and takes them down by Debian's ifupdown. It
// alone reads interfaces(5).
package ifupdown

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"

	"ec2net/disk"
	"ec2net/stack/ifupdown/interfaces"
)

// Stack is ifupdown on a machine.
type Stack struct {
	// Tree is the machine's root folder.
	Tree *disk.Tree
	// Run runs a program and waits for it: ifup, ifdown.
	Run func(ctx context.Context, program string, args ...string) error
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
// counts the interface as up already. Up keeps a copy of the stanza for Down, in case
// the file changes, or ifup fails or is killed half-way.
func (s *Stack) Up(ctx context.Context, name string) error {
	counted, err := s.CountedUp(name)
	if err != nil {
		return err
	}
	if !counted {
		if err := s.keepCopy(name); err != nil {
			return err
		}
	}
	return s.run(ctx, "ifup", name)
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
func (s *Stack) Down(ctx context.Context, name string) (ran bool, err error) {
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

// Changed reports whether the stanza differs from the one that the interface was
// brought up by; Down and then Up apply it. A missing cfg file, or an unknown earlier
// stanza, is no change.
func (s *Stack) Changed(name string) (bool, error) {
	kept, err := s.upBy(name)
	if err != nil || kept == nil {
		return false, err
	}
	cfg, err := s.Cfg(name)
	return cfg != nil && !bytes.Equal(kept, cfg), err
}

// CountedUp reports whether ifupdown counts an interface as up, even if others have
// taken it down: /run/network/ifstate has its name, and the stanza's.
func (s *Stack) CountedUp(name string) (bool, error) {
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
