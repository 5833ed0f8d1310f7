package hooks

import (
	"context"
	"errors"
	"time"

	"ec2net/facts"
)

// undoLimit bounds what takes down what ifup has begun: no DHCP client waits there.
const undoLimit = 100 * time.Second

// ifup brings an ENI up, or leaves nothing behind. An ifup(8) that failed may have
// started a DHCP client, and keeps no state: only ifdown --force ends the client. An ENI
// that was up stays up.
func (h *Host) ifup(ctx context.Context, l *look, e facts.ENI) error {
	ctx, cancel := context.WithTimeout(ctx, h.stack().Limit())
	defer cancel()
	if l.isUp() {
		return h.stack().Up(ctx, e.Name)
	}
	stack := h.stack()
	if counted, err := stack.CountedUp(e.Name); err != nil {
		return err
	} else if counted && !l.link.Up {
		// ifup would do nothing.
		h.Log.Info(e.Name, "is down, but ifupdown counts it as up: running ifdown first")
		if _, err := stack.Down(ctx, e.Name); err != nil {
			return err
		}
	}
	if err := stack.Up(ctx, e.Name); err != nil {
		return errors.Join(err, h.undo(ctx, e.Name))
	}
	links, err := h.Kernel.Links()
	if err != nil {
		return err
	}
	now := *l
	now.State.Links = links
	now.link, _ = now.State.LinkNamed(e.Name)
	if err := now.stillThere(news{name: e.Name, device: &l.link}); err != nil {
		return err // the next event takes down what ifup has brought up
	}
	if !now.link.Up {
		h.Log.Warn(e.Name, "is down after ifup")
	}
	h.Log.Info(e.Name, "ifup done: %s, table %d", e.ID, e.Number)
	return nil
}

// undo takes down what ifup has begun, even if ctx has ended.
func (h *Host) undo(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	l, err := h.look(news{name: name})
	if err != nil {
		return err
	}
	return h.takeDown(ctx, l)
}
