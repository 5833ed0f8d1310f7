package memory

import (
	"context"
	"slices"

	"ec2net/kernel"
)

// watch has the channels of one kernel.Watch.
type watch struct{ changed, firewall, leases chan struct{} }

// Watch watches for changes until ctx ends, as kernel.Kernel's Watch does.
func (k *Kernel) Watch(ctx context.Context) (*kernel.Watch, error) {
	w := watch{make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watches = append(k.watches, w)
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.watches = slices.DeleteFunc(k.watches, func(o watch) bool { return o == w })
		close(w.changed)
	})
	return &kernel.Watch{C: w.changed, Firewall: w.firewall, Leases: w.leases}, nil
}

// changed puts a token into each watch that has none.
func (k *Kernel) changed() {
	for _, w := range k.watches {
		token(w.changed)
	}
}

// Mangled tells every watch that nftables has changed the mangle table.
func (k *Kernel) Mangled() { k.tell(func(w watch) chan struct{} { return w.firewall }) }

// Leased tells every watch that a DHCP client has written its address anew.
func (k *Kernel) Leased() { k.tell(func(w watch) chan struct{} { return w.leases }) }

func (k *Kernel) tell(of func(watch) chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.watches {
		token(of(w))
	}
}

func token(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
