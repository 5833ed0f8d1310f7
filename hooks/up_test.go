package hooks

import (
	"context"
	"testing"

	"ec2net/render"
)

// Up holds the ENI's lock while it mends the marks: otherwise it could restore marks that
// taking the ENI down has just removed.
func TestUpLocks(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		check(t, m.Add(t.Context(), "eth1"))
		m.firewall.flush()
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

// Up makes a route that a template has got while the ENI is up.
func TestUpAddsRoutes(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		check(t, m.Add(t.Context(), "eth1"))
		templates, err := render.Load(fakeOverrides{"blocks.tmpl": ownRoutes})
		check(t, err)
		m.Templates = templates
		check(t, m.Up(t.Context(), "eth1"))
		same(t, "table", m.tableNow(t, 1001), table1001)
	})
}
