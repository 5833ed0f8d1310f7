package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ec2net/facts"
	"ec2net/plan"
)

// Scan asks udev for another "add" of every attached ENI that is not configured, whose
// name was configured for another device, or that lacks ip rules.
func (h *Host) Scan(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseIMDS)
	defer cancel()
	l, err := h.look(news{})
	if err != nil {
		return err
	}
	// Known ENIs need no answer of IMDS.
	known := l.knownMACs()
	_, failed := h.scan(ctx, l, known)
	if err := h.checkWay(l); err != nil {
		h.Log.Warn("scan", "%v; looked only at known ENIs", err)
		return failed
	}
	macs, err := h.Source.MACs(ctx)
	if err != nil {
		h.Log.Warn("scan", "%v; looked only at known ENIs", err)
		return failed
	}
	unknown := slices.DeleteFunc(macs, func(mac facts.MAC) bool { return slices.Contains(known, mac) })
	if len(unknown) == 0 {
		return failed
	}
	if l, err = h.look(news{}); err != nil {
		return errors.Join(failed, err)
	}
	_, err = h.scan(ctx, l, unknown)
	return errors.Join(failed, err)
}

// knownMACs returns the MACs of the known ENIs, except for those that are left alone.
func (l *look) knownMACs() []facts.MAC {
	macs, _ := l.MACs()
	return macs
}

// scan asks udev for another "add" of each of these ENIs that lacks something, and
// returns their MACs.
func (h *Host) scan(ctx context.Context, l *look, macs []facts.MAC) (asked []facts.MAC, failed error) {
	changes, _, _ := h.changes(ctx, l)
	for _, link := range plan.ENIsAmong(l.State.Links, macs) {
		what, err := h.lacking(l, link, changes)
		failed = errors.Join(failed, err)
		if what == "" {
			continue
		}
		if err := h.Replay(link.Name); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot ask udev to add %s: %w", link.Name, err))
			continue
		}
		asked = append(asked, link.MAC)
		h.Log.Info(link.Name, "is attached and %s: asked udev to add it", what)
	}
	return asked, failed
}

// lacking says what an attached ENI lacks; nothing if it is the primary or left alone.
func (h *Host) lacking(l *look, link plan.Link, changes []plan.Change) (string, error) {
	if link.MAC == l.Primary() {
		return "", nil
	}
	k, known := l.Of(link.Name)
	if !known {
		// ec2net remembers nothing of the name, but its cfg file may tell the owner.
		r, err := h.memory().recall(link.Name)
		if err != nil {
			return "", err
		}
		k, _ = r.Of(link.Name)
		l.unread[link.Name] = r.unread[link.Name]
	}
	switch {
	case l.unread[link.Name] != nil:
		return "", fmt.Errorf("cannot tell who configures %s: %w", link.Name, l.unread[link.Name])
	case k.Left != "":
		return "", nil
	case !link.Up || !k.Note.Of(link):
		return "not configured", nil
	}
	lacks := k.Lease.Of(link) && k.Lease.Ended && slices.ContainsFunc(l.State.Addrs, func(a plan.Addr) bool {
		return a.Link == link.Index && !a.Prefix.IsSingleIP()
	})
	for _, c := range changes {
		add, ok := c.(plan.AddRule)
		lacks = lacks || (ok && add.ENI == link.Name)
	}
	if lacks {
		return "lacks ip rules", nil
	}
	return "", nil
}
