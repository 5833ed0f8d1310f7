package hooks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ec2net/facts"
)

// ifupLimit bounds ifup: dhclient gives up after a minute by itself.
const ifupLimit = 100 * time.Second

// ifup brings the ENI up, or leaves nothing of it. ifup that failed has started
// a DHCP client and keeps no state; only ifdown --force takes that away. An ENI
// that was up stays up.
func (h *Host) ifup(ctx context.Context, d device, e facts.ENI) error {
	ctx, cancel := context.WithTimeout(ctx, ifupLimit)
	defer cancel()
	if d.up {
		return h.run(ctx, "ifup", e.Name)
	}
	// Before: should this be killed, the next device of the name is known not to
	// be the one that ifupdown has in mind, and that one is taken down first.
	if err := h.state().setConfigured(d.link, e.Table()); err != nil {
		return err
	}
	if counted, err := h.countedAsUp(e.Name); err != nil {
		return err
	} else if counted && !d.link.Up {
		// Then ifup would do nothing.
		h.logf(e.Name, "is down, and ifupdown counts it as up: taken down by it first")
		if err := h.run(ctx, "ifdown", "--force", e.Name); err != nil {
			return err
		}
	}
	if err := h.run(ctx, "ifup", e.Name); err != nil {
		return errors.Join(err, h.undo(ctx, e.Name))
	}
	now, _, err := h.link(e.Name)
	switch {
	case err != nil:
		return err // it is gone, or the kernel does not say
	case now.MAC != d.link.MAC || now.Index != d.link.Index:
		return errReplaced // what was brought up is taken down by whoever comes next
	case !now.Up:
		h.logf(e.Name, "ifup has left it down")
	}
	h.logf(e.Name, "ifup done: %s, table %d", e.ID, e.Table())
	return nil
}

// countedAsUp says whether ifupdown counts an interface as up, whoever has taken
// it down: /run/network/ifstate has its name, and the stanza's.
func (h *Host) countedAsUp(name string) (bool, error) {
	state, err := h.Tree.Read("/run/network/ifstate")
	for line := range strings.Lines(string(state)) {
		if strings.HasPrefix(line, name+"=") {
			return true, err
		}
	}
	return false, err
}

// undo leaves nothing of what ifup has begun, also when ctx is over.
func (h *Host) undo(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ifupLimit)
	defer cancel()
	return h.takeDown(ctx, name)
}

// run is Run with an error that names the command.
func (h *Host) run(ctx context.Context, program string, args ...string) error {
	if err := h.Run(ctx, program, args...); err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}

// downIfStale takes down what was brought up under this name for a device that
// is not there any more, with the files that it was brought up with.
func (h *Host) downIfStale(ctx context.Context, link Link) error {
	if _, noted := h.state().broughtUp(link.Name); !noted || h.state().configured(link) {
		return nil
	}
	h.logf(link.Name, "was brought up for another device: taken down first")
	return h.takeDown(ctx, link.Name)
}
