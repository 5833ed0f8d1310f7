package hooks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// Hotplug for two ENIs at once, each twice, and leases of both meanwhile: the
// same end as one after the other, and nobody waits for nobody.
func TestAtOnce(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.address(t, "eth1", "10.0.1.20/24")
		m.address(t, "eth2", "10.0.1.30/24")
		var mu sync.Mutex
		m.Log = func(string) {}
		m.Kernel = m.Kernel.(counted).Kernel // which is safe to share; counting is not
		m.Run = func(_ context.Context, program string, args ...string) error {
			mu.Lock()
			defer mu.Unlock()
			m.ran = append(m.ran, fmt.Sprint(program, args))
			return nil
		}
		// Netlink sockets belong to the namespace that they were opened in, so
		// any thread may use them.
		var all sync.WaitGroup
		errs := make(chan error, 100)
		for _, name := range []string{"eth1", "eth2", "eth1", "eth2"} {
			all.Go(func() { errs <- m.Add(t.Context(), name) })
			address := map[string]string{"eth1": "10.0.1.20", "eth2": "10.0.1.30"}[name]
			for range 5 {
				all.Go(func() { errs <- m.OnLease(t.Context(), Lease{name, "RENEW", netip.MustParseAddr(address)}) })
			}
		}
		all.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		m.lease(t, "eth2", "RENEW", "10.0.1.30")
		got := m.rulesNow(t)
		slices.Sort(got)
		want := append(slices.Clone(readyRules), "pref 1002 from 10.0.1.30 lookup 1002 protocol 236", "pref 1002 from all fwmark 0x3ea/0x3fff lookup 1002 protocol 236")
		slices.Sort(want)
		same(t, "rules", got, want)
		if len(m.ran) != 4 {
			t.Errorf("%q", m.ran)
		}
	})
}
