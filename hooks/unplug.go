package hooks

import (
	"context"
	"errors"
	"fmt"

	"ec2net/facts"
)

// Remove takes down an ENI that was detached, or that somebody wants down. The
// files stay.
func (h *Host) Remove(ctx context.Context, name string) error { return h.remove(ctx, name, false) }

// RemoveIfGone is Remove for udev: between its "remove" and the work, the ENI
// may have been plugged in again and brought up.
func (h *Host) RemoveIfGone(ctx context.Context, name string) error { return h.remove(ctx, name, true) }

func (h *Host) remove(ctx context.Context, name string, ifGone bool) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	if err := h.managed(name); err != nil {
		return err
	}
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	links, err := h.Kernel.Links()
	if err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", err)
	}
	link, there := linkNamed(links, name)
	if ifGone && there && h.state().configured(link) {
		return nil
	}
	if ours, err := h.ours(name); err != nil || !ours {
		return err
	}
	known, err := h.known()
	if err != nil {
		return err
	}
	e, _, err := h.state().facts(name)
	if err != nil {
		h.logf(name, "%v", err)
	}
	if e.Primary || (there && link.MAC == known.Primary) {
		return &PrimaryError{name}
	}
	_, noted := h.state().broughtUp(name)
	err = h.takeDown(ctx, name)
	if ifGone && there && noted {
		// The event of the device that has the name now may have come too early.
		err = errors.Join(err, h.Replay(name))
	}
	return err
}

// takeDown runs ifdown, and then takes away what ifdown may have left: with
// the device gone no hook of the DHCP client runs.
func (h *Host) takeDown(ctx context.Context, name string) error {
	cfg, err := h.state().cfg(name)
	if err != nil {
		return err
	}
	e, known, unreadable := h.state().facts(name)
	known = known && unreadable == nil
	if known && e.Mark() != 0 {
		if err := h.Kernel.Apply(dropFlows{uint32(e.Mark()), uint32(e.MarkMask)}); err != nil {
			h.logf(name, "cannot end its connections: %v", err)
		}
	}
	_, noted := h.state().broughtUp(name)
	lent := cfg == nil && noted && known
	if owner, _, unread := h.otherStanza(ctx, Link{Name: name}); owner != "" || unread != nil {
		lent = false // ifupdown goes by that one
	}
	if lent {
		// Somebody has removed the file with which ifupdown took it up, and without
		// which it takes nothing down.
		err = h.writeFiles(ctx, e)
		cfg, _ = h.state().cfg(name)
	}
	if cfg != nil {
		down := h.run(ctx, "ifdown", "--force", name)
		if down == nil {
			h.logf(name, "ifdown done")
		}
		err = errors.Join(err, down)
	}
	if path, unnamed := cfgPath(name); lent && unnamed == nil {
		err = errors.Join(err, h.Tree.Remove(path))
	}
	err = errors.Join(err, h.takeRules(ctx, name, "removed"))
	if err == nil {
		// Not before: it tells the number of the rules, and that ifupdown counts
		// the interface as up.
		err = h.state().clearConfigured(name)
	}
	return errors.Join(err, h.dockerAgain(ctx))
}
