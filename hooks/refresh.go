package hooks

import (
	"context"
	"errors"
	"slices"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/kernel"
	"ec2net/plan"
)

// Refresh asks IMDS for an ENI until it answers, and applies the answer. It does nothing
// if another Refresh of the ENI is running.
func (h *Host) Refresh(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	return h.refresh(ctx, name, h.askUntilComplete)
}

// RefreshAll asks IMDS once for each ENI that is up, the primary too. It puts marks back.
func (h *Host) RefreshAll(ctx context.Context) error {
	return errors.Join(h.refreshAll(ctx), h.KeepMarks(ctx, ""))
}

func (h *Host) refreshAll(ctx context.Context) error {
	l, err := h.look(news{})
	if err != nil {
		return err
	}
	var failed error
	for _, name := range l.refreshable() {
		err := h.refresh(ctx, name, func(ctx context.Context, l *look) (answer, error) { return h.ask(ctx, l, oneIMDS) })
		if fault.Of(err) != fault.NoRetry { // else it has gone meanwhile
			failed = errors.Join(failed, err)
		}
		var imds *facts.IMDSError
		if errors.As(err, &imds) && imds.Unreachable() {
			break // the others would be waited for in vain too
		}
	}
	return failed
}

// refreshable are the interfaces for which IMDS is asked between leases.
func (l *look) refreshable() []string {
	var names []string
	for _, v := range l.Judge() {
		k, _ := l.Of(v.Name)
		if v.Do == plan.Serve || v.Do == plan.Rest && v.Link.Up && k.Note.Of(v.Link) {
			names = append(names, v.Name)
		}
	}
	// Of the primary nothing may be known: no DHCP client with a hook configures it.
	primary := l.Primary()
	for _, link := range plan.ENIsAmong(l.State.Links, devices(l.State)) {
		k, known := l.Of(link.Name)
		if _, has := k.FactsOf(link); has || l.leftAlone(link) || slices.Contains(names, link.Name) {
			continue
		}
		if link.MAC == primary || primary == (facts.MAC{}) && !known && link.Up {
			names = append(names, link.Name)
		}
	}
	return names
}

// devices are the MACs of what may be ENIs.
func devices(s plan.State) []facts.MAC {
	var macs []facts.MAC
	for _, l := range s.Links {
		if l.Device && !l.Loopback && l.MAC != (facts.MAC{}) {
			macs = append(macs, l.MAC)
		}
	}
	return macs
}

// question asks IMDS for the device of a look.
type question func(context.Context, *look) (answer, error)

// maxTries bounds how often an event asks IMDS, if each time a newer answer was faster, or
// another device got the name. Two are usual; three take three events at a time.
const maxTries = 5

func (h *Host) refresh(ctx context.Context, name string, ask question) error {
	unlock, held, err := h.tryLock(name + ".refresh")
	if err != nil || held {
		return err
	}
	defer unlock()
	for tries := 1; ; tries++ {
		err := h.refreshOnce(ctx, name, ask)
		switch {
		case (errors.Is(err, errReplaced) || errors.Is(err, errOvertaken)) && tries < maxTries:
			// The Refresh of the new device may have found the lock held.
			h.Log.Info(name, "%v: beginning again (refresh)", err)
		case errors.Is(err, errOvertaken):
			h.Log.Info(name, "%v again and again: using that (refresh)", err)
			return nil
		case errors.Is(err, errTakenDown):
			h.Log.Info(name, "%v: nothing done (refresh)", err)
			return nil
		default:
			return err
		}
	}
}

func (h *Host) refreshOnce(ctx context.Context, name string, ask question) error {
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
		return &UnmanagedError{Name: name, Why: k.Left, Try: k.Try}
	case l.link.Index == 0:
		return &kernel.GoneError{Name: name}
	}
	n.device = &l.link
	e, err := ask(ctx, l)
	if err != nil {
		return err
	}
	return h.take(ctx, l, n, e)
}
