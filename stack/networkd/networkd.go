// Package networkd brings interfaces up and takes them down by systemd-networkd.
package networkd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"ec2net/disk"
	"ec2net/fault"
	"ec2net/lines"
	"ec2net/plan"
	"ec2net/stack"
	"ec2net/stack/networkd/unit"
)

// Stack is systemd-networkd on a machine.
type Stack struct {
	// Tree is the machine's root folder.
	Tree *disk.Tree
	// Run runs a program and waits for it: networkctl, ip.
	Run func(ctx context.Context, program string, args ...string) error
	// LeaveCloudInit says that ec2net takes no interface over from cloud-init.
	LeaveCloudInit bool
	// Tell logs what Up and Down do.
	Tell func(iface, what string)
	// AwaitAddress waits until a link has an address of a subnet's length, or until ctx ends.
	AwaitAddress func(ctx context.Context, link plan.Link) error
}

// RunDir has a copy of the file of each interface, as networkd has read it.
const RunDir = "/run/ec2net"

func copyPath(name string) string { return path.Join(RunDir, name+".network") }

// Path is where the .network file of an interface is. Its name comes before netplan's.
func (*Stack) Path(name string) string { return unit.Path(name) }

// Parse says what a .network file means for an interface. What a file cannot say is the same
// for all: a loose reverse path filter.
func (*Stack) Parse(text []byte, name string) stack.Stanza {
	return stack.Stanza{Unmanaged: lines.Unmanaged(text), Generated: lines.Generated(text), Routes: unit.Routes(text, name), Loose: true, Marks: true}
}

// NotRunningError says that systemd-networkd does not run.
type NotRunningError struct{}

func (*NotRunningError) Error() string { return "systemd-networkd does not run" }

// Status is that of what only a person can mend.
func (*NotRunningError) Status() fault.Status { return fault.Usage }

// Hint says how to start it, or what else may bring the ENIs up.
func (*NotRunningError) Hint() string {
	return "systemctl enable --now systemd-networkd, or EC2NET_STACK=ifupdown in /etc/default/ec2net"
}

// NoBusError says that networkctl(1) cannot tell systemd-networkd anything.
type NoBusError struct{}

func (*NoBusError) Error() string {
	return "there is no D-Bus, by which networkctl tells systemd-networkd to read its files"
}

// Status is that of what only a person can mend.
func (*NoBusError) Status() fault.Status { return fault.Usage }

// Hint says what is missing, or what else may bring the ENIs up.
func (*NoBusError) Hint() string {
	return "apt install dbus, or EC2NET_STACK=ifupdown in /etc/default/ec2net"
}

// Prepare fails with a NotRunningError if systemd-networkd does not run, and with a NoBusError
// if networkctl does not reach it. It keeps a copy of the file as networkd has read it, before
// the file changes: if ec2net is killed after that, the copy tells the next Up that networkd
// has to read the file again. Without the file there is no copy: networkd may have seen that
// somebody has removed it.
func (s *Stack) Prepare(name string) error {
	if runs, err := Runs(s.Tree); err != nil {
		return err
	} else if !runs {
		return &NotRunningError{}
	}
	if reached, err := Reachable(s.Tree); err != nil {
		return err
	} else if !reached {
		return &NoBusError{}
	}
	text, err := s.Tree.Read(unit.Path(name))
	if err != nil {
		return err
	} else if text == nil {
		return s.Tree.Remove(copyPath(name))
	}
	kept, err := s.Tree.Read(copyPath(name))
	if err != nil || kept != nil {
		return err
	}
	_, err = s.Tree.Write(copyPath(name), text)
	return err
}

// Runs reports whether systemd-networkd has been started since boot. (The folders are there
// anyway: systemd's tmpfiles.d(5) has them.)
func Runs(tree *disk.Tree) (bool, error) {
	_, err := tree.Modified("/run/systemd/netif/state")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// bus is the socket of D-Bus.
const bus = "/run/dbus/system_bus_socket"

// Reachable reports whether there is a D-Bus, by which networkctl(1) reaches networkd.
func Reachable(tree *disk.Tree) (bool, error) {
	_, err := tree.Modified(bus)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Used reports whether ec2net has written a file for some interface.
func Used(tree *disk.Tree) (bool, error) {
	files, err := withExt(tree, unit.Folder, ".network")
	return slices.ContainsFunc(files, func(file string) bool { return strings.HasPrefix(path.Base(file), unit.Prefix) }), err
}

// Limit bounds the wait for a lease. networkd goes on asking for one afterwards.
const Limit = 60 * time.Second

// givenUp is networkd's state of a link that it could not configure, for instance because
// somebody set the link down meanwhile. It does not try again by itself.
const givenUp = "failed"

// Up has networkd bring an interface up, and waits for its lease. It has networkd read its
// files again only if that of the interface has changed, or networkd uses another: the link is
// configured anew then, and loses its lease for a moment.
func (s *Stack) Up(ctx context.Context, link plan.Link, live bool) error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	text, err := s.Tree.Read(unit.Path(link.Name))
	if err != nil {
		return err
	}
	kept, err := s.Tree.Read(copyPath(link.Name))
	if err != nil {
		return err
	}
	// Networkd may be starting again.
	before, err := stack.AwaitLinkState(ctx, s.Tree, link.Index, Undecided)
	if err != nil {
		return err
	}
	if before.File != unit.Path(link.Name) || !live && !bytes.Equal(text, kept) {
		if err := errors.Join(s.dropAddresses(ctx, link, before.File), s.dropFormer(link, before.File)); err != nil {
			return err
		}
		if err := s.run(ctx, "networkctl", "reload"); err != nil {
			return err
		}
		if _, err := s.Tree.Write(copyPath(link.Name), text); err != nil {
			return err
		}
		if err := s.awaitFile(ctx, link, before.File); err != nil {
			return err
		}
	}
	if before.Admin == givenUp && !live {
		if err := s.run(ctx, "networkctl", "reconfigure", link.Name); err != nil {
			return err
		}
	}
	if !link.Up {
		if err := s.run(ctx, "ip", "link", "set", "dev", link.Name, "up"); err != nil {
			return err
		}
	}
	if err := s.AwaitAddress(ctx, link); err != nil {
		return s.explain(link, err)
	}
	// networkd adds the routes of a lease after the address, and an ENI's table has copies of
	// them.
	return s.awaitState(ctx, link, func(now stack.LinkState) bool { return now.Admin != "configuring" })
}

// dropFormer removes ec2net's file for a link under its former name, which may come before the
// one under its present name.
func (s *Stack) dropFormer(link plan.Link, file string) error {
	former, err := s.formerFile(file, link)
	if err != nil || !former {
		return err
	}
	name, _ := unit.NameOf(file)
	s.Tell(link.Name, "removing "+file+": "+name+" is "+link.Name+" now")
	return errors.Join(s.Tree.Remove(file), s.Tree.Remove(copyPath(name)))
}

// awaitFile waits until networkd uses ec2net's file for a link, and tells it, or that networkd
// uses another one.
func (s *Stack) awaitFile(ctx context.Context, link plan.Link, before string) error {
	file := unit.Path(link.Name)
	if err := s.awaitState(ctx, link, func(now stack.LinkState) bool { return now.File == file }); err != nil {
		return err
	}
	now, err := stack.ReadLinkState(s.Tree, link.Index)
	if err != nil {
		return err
	}
	if now.File == file {
		s.Tell(link.Name, "systemd-networkd has read "+file+over(before))
	} else {
		s.Tell(link.Name, notUsed(file, now.File))
	}
	return nil
}

// notUsed says that networkd uses another file than ec2net's.
func notUsed(file, used string) string {
	return fmt.Sprintf("systemd-networkd does not use %s: its file is %q", file, used)
}

// stateLimit bounds the wait for networkd to go on with a link.
const stateLimit = 5 * time.Second

// awaitState waits until networkd's state of a link is one to go on with, or for stateLimit:
// what is missing then is up to the next event. After "networkctl reload" a link keeps its
// former file, and the address of that, for some milliseconds.
func (s *Stack) awaitState(ctx context.Context, link plan.Link, is func(stack.LinkState) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stateLimit)
	defer cancel()
	for {
		state, err := stack.ReadLinkState(s.Tree, link.Index)
		if err != nil || is(state) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// explain says why a link has got no address.
func (s *Stack) explain(link plan.Link, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("told to end while waiting for a lease of %s: %w", link.Name, err)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	state, failed := stack.ReadLinkState(s.Tree, link.Index)
	switch {
	case failed != nil:
		return errors.Join(err, failed)
	case state.File != unit.Path(link.Name):
		return errors.New(notUsed(unit.Path(link.Name), state.File))
	}
	return fmt.Errorf("no lease within %v: \"networkctl status %s\" says more", Limit, link.Name)
}

// Down sets a link down: networkd gives its lease back, and asks for none until the link is
// up again. If ec2net's file is gone, networkd forgets it; if the link is to be cloud-init's
// again, Down removes the file. ran reports whether there was something to do.
func (s *Stack) Down(ctx context.Context, link plan.Link) (ran bool, err error) {
	if err := s.giveBack(link); err != nil {
		return false, err
	}
	if link.Index != 0 && link.Up {
		ran = true
		if err := s.run(ctx, "ip", "link", "set", "dev", link.Name, "down"); err != nil {
			return ran, err
		}
		// networkd keeps the addresses that ec2net has added: KeepConfiguration=static.
		if err := s.run(ctx, "ip", "-4", "addr", "flush", "dev", link.Name); err != nil {
			return ran, err
		}
	}
	text, err := s.Tree.Read(unit.Path(link.Name))
	if err != nil || text != nil {
		return ran, err
	}
	if kept, err := s.Tree.Read(copyPath(link.Name)); err != nil || kept == nil {
		return ran, err
	}
	if err := s.run(ctx, "networkctl", "reload"); err != nil {
		return true, err
	}
	return true, s.Tree.Remove(copyPath(link.Name))
}

// giveBack removes ec2net's file for a link, if the settings leave it to cloud-init, and
// netplan has made a file for it.
func (s *Stack) giveBack(link plan.Link) error {
	if !s.LeaveCloudInit || link.Index == 0 {
		return nil
	}
	ours, err := s.Tree.Read(unit.Path(link.Name))
	if err != nil || !lines.Generated(ours) || lines.Unmanaged(ours) {
		return err
	}
	file, _, err := s.behind(link)
	if _, netplans := netplanID(file); err != nil || !netplans {
		return err
	}
	s.Tell(link.Name, "removing "+unit.Path(link.Name)+": it is cloud-init's again")
	return s.Tree.Remove(unit.Path(link.Name))
}

// Health says whether the file differs from the one that networkd has read, and whether
// networkd has given the link up, or has no file for it although nobody told it to leave the
// link alone, or has a lease of an address that the link lacks: it gives the address back with
// the next renewal only.
func (s *Stack) Health(state plan.State, link plan.Link) (h stack.Health, err error) {
	kept, err := s.Tree.Read(copyPath(link.Name))
	if err != nil {
		return h, err
	}
	text, err := s.Tree.Read(unit.Path(link.Name))
	if err != nil {
		return h, err
	}
	h.Changed = text != nil && kept != nil && !bytes.Equal(kept, text)
	now, err := stack.ReadLinkState(s.Tree, link.Index)
	if err != nil {
		return h, err
	}
	if now.Admin == "unmanaged" {
		by, err := s.unmanagedBy(link)
		h.NoClient = err == nil && by.Nobody()
		return h, err
	}
	leased, err := s.Leased(link.Index)
	h.NoClient = now.Admin == givenUp || leased.IsValid() && !state.Has(link.Index, leased)
	return h, err
}

// Leased returns the address that networkd has leased for a link; not valid if none. It
// reads the file that networkd keeps its lease in.
func (s *Stack) Leased(index int) (netip.Addr, error) {
	text, err := s.Tree.Read(fmt.Sprintf("/run/systemd/netif/leases/%d", index))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "ADDRESS="); ok {
			a, _ := netip.ParseAddr(strings.TrimSpace(value))
			return a, err
		}
	}
	return netip.Addr{}, err
}

// run is Run with the command in the error.
func (s *Stack) run(ctx context.Context, program string, args ...string) error {
	if err := s.Run(ctx, program, args...); err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}
