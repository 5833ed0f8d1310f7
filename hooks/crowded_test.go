package hooks

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// few is a kernel that fails the test if somebody asks for many routes.
type few struct {
	Kernel
	t     *testing.T
	looks int
}

func (k *few) Look(scope func([]plan.Link) plan.Scope) (plan.State, error) {
	if scope == nil {
		k.t.Error("asked for all routes")
	}
	s, err := k.Kernel.Look(scope)
	if len(s.Routes) > 20 {
		k.t.Errorf("got %d routes", len(s.Routes))
	}
	k.looks++
	return s, err
}

// On a machine with 20,000 routes no event asks for more of them than it needs, and a
// renewal that changes nothing looks once.
func TestCrowded(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.IMDS = netip.MustParseAddr("169.254.169.254")
		ready(t, m)
		m.lease(t, "eth0", "BOUND", "10.0.0.10")
		check(t, m.Add(t.Context(), "eth2"))
		m.crowd(t, 20_000)
		run := m.Run
		m.Run = func(ctx context.Context, program string, args ...string) error {
			if slices.Contains(args, "-C") {
				return exited(1) // there is no such rule
			}
			return run(ctx, program, args...)
		}
		k := &few{Kernel: m.kernel, t: t}
		m.Kernel = k

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
			t.Errorf("a renewal allocated %d KiB", n>>10)
		}
		if k.looks != 1 {
			t.Errorf("a renewal looked %d times", k.looks)
		}
		for what, event := range map[string]func() error{
			"BOUND of the primary": func() error { return m.OnLease(t.Context(), Lease{"eth0", "BOUND", addrs("10.0.0.10")[0]}) },
			"scan":                 func() error { return m.Scan(t.Context()) },
			"refresh":              func() error { return m.Refresh(t.Context(), "eth1") },
			"docker up":            func() error { return m.DockerUp(t.Context()) },
			"docker down":          func() error { return m.DockerDown(t.Context()) },
			"up":                   func() error { return m.Up(t.Context(), "eth1") },
			"routes changed":       func() error { _, err := m.converge(t.Context(), news{why: "routes changed"}); return err },
			"the way to IMDS":      func() error { return CheckWay(k, m.IMDS) },
			"add": func() error {
				if err := m.Down(t.Context(), "eth2"); err != nil {
					return err
				}
				return m.Add(t.Context(), "eth2")
			},
			"docker wait": func() error {
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				return m.DockerWait(ended, "eth1")
			},
		} {
			if err := event(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// crowd adds many routes to main that ec2net need not see.
func (m *machine) crowd(t *testing.T, n int) {
	t.Helper()
	other := m.linkNamed(t, "p-eth2")
	m.setUp(t, "p-eth2")
	for i := range n {
		dst := netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
		r := plan.Route{Table: 254, Link: other.Index, Dst: netip.PrefixFrom(dst, 32), Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_BGP}
		check(t, m.kernel.Apply(plan.AddRoute{Link: other, Route: r}))
	}
}
