package hooks

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// WatchPrimary keeps the primary's own table what main has through the primary,
// until ctx ends. Without such a table it returns at once.
func (h *Host) WatchPrimary(ctx context.Context) error {
	if !h.Numbers.Primary {
		return nil
	}
	done := make(chan struct{})
	defer close(done)
	routes := make(chan netlink.RouteUpdate, 64)
	lost := make(chan error, 1)
	err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case lost <- err:
			default:
			}
		}})
	if err != nil {
		return fmt.Errorf("cannot listen to the kernel: %w", err)
	}
	for {
		if err := h.followPrimary(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-lost:
			return fmt.Errorf("cannot listen to the kernel: %w", err)
		case <-routes:
		}
		// A burst of changes is looked at once.
		for len(routes) > 0 {
			<-routes
		}
	}
}

// followPrimary makes the primary's table current, once its facts are known:
// its first lease gets them.
func (h *Host) followPrimary(ctx context.Context) error {
	enis, err := h.up()
	if err != nil {
		return err
	}
	for _, e := range enis {
		if e.Primary {
			_, failed := h.apply(ctx, Lease{Interface: e.Name, Reason: "routes changed"}, nil, Wanted{ENI: e})
			err = errors.Join(err, failed)
		}
	}
	return err
}
