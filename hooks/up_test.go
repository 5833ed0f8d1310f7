package hooks

import (
	"context"
	"testing"
)

// Marks are mended with the ENI's lock in hand: who takes it down meanwhile would find
// them made again.
func TestUpLocks(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		run, checked := m.Run, false
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if program == "iptables" {
				checked = true
				if unlock, held, err := m.tryLock("eth1"); err != nil || !held {
					t.Errorf("%v: the lock is free", args)
					unlock()
				}
			}
			return run(ctx, program, args...)
		}
		check(t, m.Up(t.Context(), "eth1"))
		if !checked {
			t.Error("nobody looked at the marks")
		}
	})
}
