package hooks

import (
	"errors"
	"strings"
	"testing"
)

// The watch of the primary's table leaves the rule of the leased address alone.
func TestWatchKeepsLease(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		m.vpc.err = errors.New("gone")
		m.address(t, "eth0", "10.0.0.50/24")
		m.lease(t, "eth0", "BOUND", "10.0.0.50")
		before := m.rulesNow(t)
		if !strings.Contains(strings.Join(before, "\n"), "from 10.0.0.50 lookup 1000") {
			t.Fatalf("rules %q", before)
		}
		_, err := m.converge(t.Context(), news{why: "routes changed"})
		check(t, err)
		same(t, "rules", m.rulesNow(t), before)
	})
}
