package memory

import (
	"context"
	"slices"

	"ec2net/kernel"
)

// Watch watches for changes until ctx ends, as kernel.Kernel's Watch does.
func (k *Kernel) Watch(ctx context.Context) (*kernel.Watch, error) {
	c := make(chan struct{}, 1)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watches = append(k.watches, c)
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.watches = slices.DeleteFunc(k.watches, func(o chan struct{}) bool { return o == c })
		close(c)
	})
	return &kernel.Watch{C: c}, nil
}

// changed puts a token into each watch that has none.
func (k *Kernel) changed() {
	for _, c := range k.watches {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
