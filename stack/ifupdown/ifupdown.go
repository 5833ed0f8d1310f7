// Package ifupdown brings interfaces up and down by Debian's ifupdown, and knows
// what its files say: interfaces(5) is read here, and nowhere else.
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

// RunDir is where the copies are of the stanzas that interfaces are up by.
const RunDir = "/run/ec2net"

func copyPath(name string) string { return path.Join(RunDir, name+".cfg") }

// Cfg is the stanza of an interface as ec2net's file has it; nil if there is no
// file. What is there and is no file, such as a folder, is an error.
func (s *Stack) Cfg(name string) ([]byte, error) { return s.Tree.Read(interfaces.Path(name)) }

// upBy is the stanza that an interface was last brought up by, nil if Up has not
// done that since boot, or Down has taken it down.
func (s *Stack) upBy(name string) ([]byte, error) { return s.Tree.Read(copyPath(name)) }

// Up brings an interface up by the stanza that is there now. If ifupdown counts it
// as up already, ifup does nothing. A copy of the stanza stays for Down: whatever
// becomes of the file, and if ifup fails or is killed half way.
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
		return s.Tree.Remove(copyPath(name)) // ifup is about to say so
	}
	_, err = s.Tree.Write(copyPath(name), cfg)
	return err
}

// Down takes an interface down by the stanza that Up has brought it up by, or by
// the one that is there now if that is not known. Without either there is nothing
// that ifdown could do; ran reports whether it ran. ifdown is forced: after an ifup
// that failed, ifupdown does not count the interface as up, and the DHCP client is
// left.
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

// Changed reports whether the stanza that is there now is another than the one that
// the interface was brought up by: Down and Up apply it. It is no change if the
// file is gone, or if it is not known what the interface was brought up by.
func (s *Stack) Changed(name string) (bool, error) {
	kept, err := s.upBy(name)
	if err != nil || kept == nil {
		return false, err
	}
	cfg, err := s.Cfg(name)
	return cfg != nil && !bytes.Equal(kept, cfg), err
}

// CountedUp reports whether ifupdown counts an interface as up, whoever has taken it
// down: /run/network/ifstate has its name, and the stanza's.
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

// run is Run with an error that names the command.
func (s *Stack) run(ctx context.Context, program string, args ...string) error {
	if err := s.Run(ctx, program, args...); err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}
