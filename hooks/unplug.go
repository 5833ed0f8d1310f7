package hooks

import (
	"context"
	"errors"

	"ec2net/facts"
	"ec2net/kernel"
	"ec2net/plan"
)

// Remove takes down an ENI that was detached. Its files stay. Remove ignores an interface
// that ec2net has never configured.
func (h *Host) Remove(ctx context.Context, name string) error { return h.remove(ctx, name, removal{}) }

// RemoveIfGone is Remove for udev: since its "remove", the ENI may have been attached
// again and brought up; then it stays up.
func (h *Host) RemoveIfGone(ctx context.Context, name string) error {
	return h.remove(ctx, name, removal{ifGone: true})
}

// Down is Remove for a person: if there is nothing to take down, the error says so.
func (h *Host) Down(ctx context.Context, name string) error {
	return h.remove(ctx, name, removal{byHand: true})
}

type removal struct{ ifGone, byHand bool }

func (h *Host) remove(ctx context.Context, name string, how removal) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := h.look(news{name: name})
	if err != nil {
		return err
	}
	if goes, err := how.goes(l); err != nil || !goes {
		return err
	}
	if err := l.damaged[name]; err != nil {
		h.Log.Warn(name, "%v", err)
	}
	err = h.takeDown(ctx, l)
	if err == nil && how.byHand && l.link.Index != 0 {
		err = h.memory().setDown(l.link)
	}
	if k, _ := l.Of(name); how.ifGone && l.link.Index != 0 && k.Note != (plan.Note{}) {
		// The "add" of the device that has the name now may have come too early.
		err = errors.Join(err, h.addAgain(name))
	}
	return err
}

// addAgain asks udev for another "add" of an interface. If that fails because the device
// has gone meanwhile, its own "remove" follows.
func (h *Host) addAgain(name string) error {
	err := h.Replay(name)
	if err == nil {
		return nil
	}
	links, failed := h.Kernel.Links()
	state := plan.State{Links: links}
	if _, there := state.LinkNamed(name); failed == nil && !there {
		return nil
	}
	return errors.Join(err, failed)
}

// goes reports whether to take the interface down; an error says why not.
func (how removal) goes(l *look) (bool, error) {
	k, _ := l.Of(l.name)
	there := l.link.Index != 0
	switch {
	case l.unread[l.name] != nil:
		return false, l.unread[l.name]
	case k.Left != "" && !there && k.Note != (plan.Note{}):
		return true, nil // what ec2net has made before it was to leave the interface alone
	case k.Left != "":
		return false, &UnmanagedError{Name: l.name, Why: k.Left, Try: k.Try}
	case how.ifGone && there && k.Note.Of(l.link):
		return false, nil
	case k.Facts.Primary || (there && l.link.MAC == l.Primary()):
		return false, &PrimaryError{l.name}
	case !k.Ours:
		return false, how.nothing(l)
	}
	return true, nil
}

// nothing returns the error, if any, for an interface that ec2net has never configured.
func (how removal) nothing(l *look) error {
	switch {
	case !how.byHand:
		return nil
	case l.link.Index == 0:
		return &kernel.GoneError{Name: l.name}
	}
	return &UnmanagedError{Name: l.name, Why: "ec2net has never configured it"}
}

// takeDown runs ifdown, and then removes what ifdown may have left: once the device is
// gone, no hook of the DHCP client runs.
func (h *Host) takeDown(ctx context.Context, l *look) error {
	link := l.link
	link.Name = l.name // also if there is none
	by := l.stackOf(l.name)
	ran, err := h.stack(by).Down(ctx, link)
	if ran && err == nil {
		h.Log.Info(l.name, "%s", done[by].down)
	}
	gone := news{name: l.name, why: "removed", going: true}
	// After ifdown, since packets that come in get the mark until then; and before the rules
	// go, since without them what a container still sends would leave by another ENI.
	h.dropFlows(l.with(gone))
	_, failed := h.converge(ctx, gone)
	if err = errors.Join(err, failed); err == nil {
		// Last: a retry needs the note to find the rules' number, and to know that ifupdown
		// still counts the interface as up.
		err = h.memory().clearNote(l.name)
	}
	return errors.Join(err, h.marksAgain(ctx, marking{going: l.name}))
}

// dropFlows ends the connections whose marks belong to no ENI any more.
func (h *Host) dropFlows(gone *look) {
	for _, number := range gone.Freed(gone.name) {
		drop := plan.DropFlows{ENI: gone.name, Mark: facts.Mark(number), Mask: h.Numbers.MarkMask}
		if err := h.Kernel.Apply(drop); err != nil {
			h.Log.Warn(gone.name, "cannot end its connections: %v", err)
		}
	}
}
