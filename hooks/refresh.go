package hooks

import (
	"context"
	"errors"

	"ec2net/facts"
	"ec2net/kernel"
)

// Refresh asks IMDS for an ENI until it answers, and applies the answer. It does nothing
// if another Refresh of the ENI is running.
func (h *Host) Refresh(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	unlock, held, err := h.tryLock(name + ".refresh")
	if err != nil || held {
		return err
	}
	defer unlock()
	for {
		err := h.refresh(ctx, name)
		switch {
		case errors.Is(err, errReplaced):
			// The Refresh of the new device may have found the lock held.
			h.Log.Info(name, "%v: beginning again (refresh)", err)
		case errors.Is(err, errTakenDown):
			h.Log.Info(name, "%v: nothing done (refresh)", err)
			return nil
		default:
			return err
		}
	}
}

func (h *Host) refresh(ctx context.Context, name string) error {
	n := news{name: name, why: "refresh"}
	l, err := h.look(n)
	if err != nil {
		return err
	}
	k, _ := l.Of(name)
	switch {
	case l.unread[name] != nil:
		return l.unread[name]
	case k.Left != "":
		return &UnmanagedError{Name: name, Why: k.Left}
	case l.link.Index == 0:
		return &kernel.GoneError{Name: name}
	}
	n.device = &l.link
	e, err := h.askUntilComplete(ctx, l)
	if err != nil {
		return err
	}
	return h.take(ctx, l, n, e)
}
