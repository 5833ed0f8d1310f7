package hooks

import (
	"context"
)

// Watch converges whenever the kernel's network changes, until ctx ends. It does not ask
// IMDS. If the primary has no table of its own, Watch returns at once: nothing else
// needs it.
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
