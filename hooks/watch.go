package hooks

import (
	"context"
)

// Watch keeps the machine what it should be, until ctx ends: whenever the kernel's
// network changes it converges, from what is known. Without a table of the primary's
// own it returns at once: nothing else needs it.
func (h *Host) Watch(ctx context.Context) error {
	if !h.Numbers.Primary {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed, err := h.Kernel.Watch(ctx)
	if err != nil {
		return err
	}
	for {
		if _, err := h.converge(ctx, news{why: "routes changed"}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-changed.C:
			if !open {
				return changed.Err()
			}
		}
	}
}
