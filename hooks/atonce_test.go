package hooks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/facts"
	"ec2net/lab/unshared"
)

const eightENIs = 8

// eight attaches eight ENIs, with their leases.
func (m *machine) eight(t *testing.T) (names []string) {
	t.Helper()
	var mu sync.Mutex
	m.Log, m.Kernel = quiet{}, m.kernel // the kernel is safe to share; a counter is not
	m.Run = func(_ context.Context, program string, args ...string) error {
		mu.Lock()
		defer mu.Unlock()
		m.ran = append(m.ran, fmt.Sprint(program, args))
		return nil
	}
	for i := byte(1); i <= eightENIs; i++ {
		name, mac := fmt.Sprintf("eth%d", i), facts.MAC{2, 0, 0, 0, 8, i}
		if i <= 2 {
			m.pull(t, name)
		}
		addVeth(t, m.netns, name, mac)
		m.vpc.enis[mac] = facts.ENI{MAC: mac, ID: fmt.Sprintf("eni-%d", i), DeviceNumber: int(i), PrimaryMAC: primaryMAC,
			IPv4: addrs(leased(name).String(), fmt.Sprintf("10.0.%d.21", i)), Subnet: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))}
		m.address(t, name, leased(name).String()+"/24")
		names = append(names, name)
	}
	return names
}

func leased(name string) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("10.0.%s.20", name[3:]))
}

// Two hundred hotplugs and hooks of eight ENIs at once: the result is the same as one
// after the other, and none waits for long. They share one connection to the kernel:
// a netlink socket stays in the namespace in which it was opened, so any thread may use
// it. The time is that of synctest: it counts only the waits for each other, not how
// busy the machine is.
func TestAtOnce(t *testing.T) {
	unshared.Need(t)
	type end struct{ rules, addrs, ran []string }
	run := func(start func(func())) (got end) {
		synctest.Test(t, func(t *testing.T) {
			unshared.Netns(t)
			m := newMachine(t)
			names := m.eight(t)
			for range 5 {
				for _, name := range names {
					start(func() {
						began := time.Now()
						if err := m.Add(t.Context(), name); err != nil {
							t.Error(err)
						}
						if took := time.Since(began); took > hotplugIMDS {
							t.Errorf("hotplug took %v", took)
						}
					})
					for _, reason := range []string{"BOUND", "RENEW", "REBIND", "RENEW"} {
						start(func() {
							began := time.Now()
							if err := m.OnLease(t.Context(), Lease{name, reason, leased(name)}); err != nil {
								t.Error(err)
							}
							if took := time.Since(began); took > leaseIMDS {
								t.Errorf("a hook took %v", took)
							}
						})
					}
				}
			}
			start(nil)
			for _, name := range names {
				got.addrs = append(got.addrs, name+": "+strings.Join(m.addrsNow(t, name), " "))
			}
			got.rules, got.ran = m.rulesNow(t), m.ran
			slices.Sort(got.rules)
			slices.Sort(got.ran)
		})
		return got
	}
	want := run(func(f func()) {
		if f != nil {
			f()
		}
	})
	var all sync.WaitGroup
	got := run(func(f func()) {
		if f == nil {
			all.Wait()
			return
		}
		all.Go(f)
	})
	if len(want.rules) != 5*eightENIs || len(want.ran) != 5*eightENIs {
		t.Errorf("%d rules, %d programs", len(want.rules), len(want.ran))
	}
	same(t, "rules", got.rules, want.rules)
	same(t, "addresses", got.addrs, want.addrs)
	same(t, "programs", got.ran, want.ran)
}
