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
	if err := h.state().setConfigured(d.link, e.Table); err != nil {
		return err
	}
	now, err := h.ifupAndLook(ctx, d.link)
	if err == nil && !now.Up {
		// To ifupdown it is up, and somebody has taken it down by other means.
		h.logf(e.Name, "is down, and ifupdown counts it as up: taken down by it first")
		if err = h.run(ctx, "ifdown", "--force", e.Name); err == nil {
			_, err = h.ifupAndLook(ctx, d.link)
		}
	}
	var gone *GoneError
	switch {
	case err == nil:
		h.logf(e.Name, "ifup done: %s, table %d", e.ID, e.Table)
		return nil
	case errors.Is(err, errReplaced), errors.As(err, &gone):
		return err // what was brought up is taken down by whoever comes next
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), ifupLimit)
	defer cancel()
	return errors.Join(err, h.takeDown(undo, e.Name))
}

// ifupAndLook runs ifup, and sees what has become of the device.
func (h *Host) ifupAndLook(ctx context.Context, link Link) (Link, error) {
	if err := h.run(ctx, "ifup", link.Name); err != nil {
		return link, err
	}
	now, _, err := h.link(link.Name)
	if err == nil && (now.MAC != link.MAC || now.Index != link.Index) {
		err = errReplaced
	}
	return now, err
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
