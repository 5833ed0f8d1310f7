package hooks

import (
	"context"
	"errors"

	"ec2net/facts"
	"ec2net/kernel"
)

// Refresh asks IMDS for an ENI that is up until it has answered, and makes the kernel
// have what it says. One such question at a time is enough for an ENI.
func (h *Host) Refresh(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	unlock, held, err := h.tryLock(name + ".refresh")
	if err != nil || held {
		return err
	}
	defer unlock()
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
	if errors.Is(err, errReplaced) || errors.Is(err, errTakenDown) {
		h.Log.Info(name, "%v: nothing done (%s)", err, n.why)
		return nil
	}
	if err != nil {
		return err
	}
	return h.take(ctx, l, n, e)
}
