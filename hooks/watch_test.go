package hooks

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/facts"
	"ec2net/iprule"
	mem "ec2net/kernel/memory"
	"ec2net/plan"
	"ec2net/render"
)

// watched runs a test on a machine in memory with eth1 and eth2 up, on which Watch
// runs, in a bubble of its own time.
func watched(t *testing.T, every time.Duration, test func(t *testing.T, w *watchedWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &watchedWorld{world: newWorld(t, kernelInMemory, nil)}
		w.OnLease(t.Context(), Lease{Interface: "eth0", Reason: "BOUND", Address: netip.MustParseAddr("10.0.0.10")})
		w.plug(t, "eth1", facts.MAC{2, 0, 0, 0, 1, 1}, addrs("10.0.1.20", "10.0.1.21"))
		w.plug(t, "eth2", facts.MAC{2, 0, 0, 0, 1, 2}, addrs("10.0.2.30"))
		check(t, w.Add(t.Context(), "eth1"))
		check(t, w.Add(t.Context(), "eth2"))
		w.Every = every
		// Watch asks IMDS while it looks at the kernel.
		templates, err := builtIn()
		check(t, err)
		w.Kernel, w.Templates, w.Log = w.kernel, templates, &locked{Log: w.Log}
		w.Replay, w.Unplug = w.seen.add("add "), w.seen.add("remove ")
		ended := make(chan error, 1)
		go func() { ended <- Watch(t.Context(), func() *Host { return w.Host }) }()
		w.after(time.Second)
		test(t, w)
		select {
		case err := <-ended:
			t.Errorf("Watch has ended: %v", err)
		default:
		}
	})
}

// watchedWorld is a world, and the events that udev was asked for.
type watchedWorld struct {
	*world
	seen requests
}

type requests struct {
	mu  sync.Mutex
	all []string
}

func (r *requests) add(action string) func(string) error {
	return func(name string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all = append(r.all, action+name)
		return nil
	}
}

// take returns the requests since the last call.
func (r *requests) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// locked is a log for more than one at a time.
type locked struct {
	Log
	mu sync.Mutex
}

func (l *locked) Info(iface, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Log.Info(iface, format, args...)
}

func (l *locked) Warn(iface, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Log.Warn(iface, format, args...)
}

// after lets time pass.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// picture is what the kernel has, without what need not come back as it was: the order.
func (m *machine) picture(t *testing.T) []string {
	t.Helper()
	s := m.state(t)
	lines := rulesOf(s)
	for _, l := range s.Links {
		lines = append(lines, fmt.Sprintf("%s group %d", l.Name, l.Group))
	}
	for _, a := range s.Addrs {
		l, _ := s.LinkAt(a.Link)
		lines = append(lines, l.Name+" "+a.Prefix.String())
	}
	for _, r := range s.Routes {
		lines = append(lines, fmt.Sprintf("table %d link %d %v via %v metric %d", r.Table, r.Link, r.Dst, r.Gateway, r.Metric))
	}
	slices.Sort(lines)
	return lines
}

// What another program takes away is there again within a second.
func TestWatchPutsBack(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		eth1, _, err := w.linkOf("eth1")
		check(t, err)
		before := w.picture(t)
		own := func(s plan.State) []plan.Rule {
			return slices.DeleteFunc(slices.Clone(s.Rules), func(r plan.Rule) bool { return r.Protocol != iprule.Protocol })
		}
		for what, disturb := range map[string]func(s plan.State){
			"nothing":        func(plan.State) {},
			"a rule deleted": func(s plan.State) { check(t, w.kernel.Apply(plan.DelRule{Rule: own(s)[1]})) },
			"all rules deleted": func(s plan.State) {
				for _, r := range own(s) {
					check(t, w.kernel.Apply(plan.DelRule{Rule: r}))
				}
			},
			"table flushed": func(s plan.State) {
				for _, r := range s.Routes {
					if r.Table == 1001 {
						check(t, w.kernel.Apply(plan.DelRoute{Link: eth1, Route: r}))
					}
				}
			},
			"address deleted": func(plan.State) {
				check(t, w.kernel.Apply(plan.DelAddr{Link: eth1, Addr: netip.MustParsePrefix("10.0.1.21/32")}))
			},
			"group reset": func(plan.State) { check(t, w.kernel.Apply(plan.SetGroup{Link: eth1})) },
		} {
			disturb(w.state(t))
			w.after(time.Second)
			same(t, what, w.picture(t), before)
		}
		if len(w.warned) > 0 {
			t.Errorf("warnings %q", w.warned)
		}
	})
}

// Whatever the stanza makes is there again within a second; of the table of an ENI
// that is gone nothing is left then.
func TestWatchStanza(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		table := w.tableNow(t, 1001)
		if len(table) != 3 {
			t.Fatalf("table 1001:\n%s", strings.Join(table, "\n"))
		}
		check(t, w.links.set("eth1", false))
		w.after(time.Second)
		check(t, w.links.set("eth1", true))
		w.links.(cards).SetStrict("eth1")
		w.links.(cards).SetIPv6("eth1", true)
		w.after(time.Second)
		same(t, "table, eth1 set down and up", w.tableNow(t, 1001), table)
		if l, _, _ := w.linkOf("eth1"); l.Strict {
			t.Error("rp_filter is strict")
		} else if !l.NoIPv6 {
			t.Error("IPv6 is on")
		}
		w.unplug(t, "eth1")
		w.after(time.Second)
		same(t, "table of an ENI that is gone", w.tableNow(t, 1001), nil)
	})
}

// If somebody gives the primary's default route another metric, main prefers it to those of
// the other ENIs again within a second, without a lease.
func TestWatchKeepsPrimaryFirst(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		eth0, _, err := w.linkOf("eth0")
		check(t, err)
		const static, dhcp = 4, 16
		was := plan.Route{Table: iprule.MainTable, Link: eth0.Index, Dst: netip.MustParsePrefix(everywhere), Gateway: netip.MustParseAddr("10.0.0.1")}
		for _, metric := range []int{5000, 1001, 1002, 100, 1003, 0} {
			for _, protocol := range []int{static, dhcp} {
				for _, r := range w.state(t).Routes {
					if r.Table == iprule.MainTable && r.Link == eth0.Index && r.Default() && r.Protocol != iprule.Protocol {
						check(t, w.kernel.Apply(plan.DelRoute{Link: eth0, Route: r}))
					}
				}
				r := was
				r.Metric, r.Protocol = metric, protocol
				check(t, w.kernel.Apply(plan.AddRoute{Link: eth0, Route: r, Append: true}))
				w.after(time.Second)
				defaults := slices.DeleteFunc(slices.Clone(w.state(t).Routes), func(r plan.Route) bool {
					return r.Table != iprule.MainTable || !r.Default() || r.TOS != 0
				})
				if len(defaults) < 3 || defaults[0].Link != eth0.Index {
					t.Errorf("metric %d, protocol %d: main has %+v", metric, protocol, defaults)
				}
				if table := w.table(t, 1000); !slices.ContainsFunc(table, func(r string) bool { return strings.HasPrefix(r, "default via 10.0.0.1 dev eth0") }) {
					t.Errorf("metric %d, protocol %d: the primary's table is %q", metric, protocol, table)
				}
			}
		}
	})
}

// Against a program that puts its own state back each time Watch gives up after a
// bounded number of rounds, says so once, and tries again later; what else is missing
// it mends.
func TestWatchContest(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		before := w.kernelRules(t)
		contested := iprule.Rule{Priority: 1001, From: netip.MustParsePrefix("10.0.1.21/32"), Table: 1001,
			Protocol: iprule.Protocol, SuppressPrefixLength: -1, SuppressGroup: -1}
		has := func() bool {
			return slices.ContainsFunc(w.state(t).Rules, func(r plan.Rule) bool { return r.Rule == contested })
		}
		var undone atomic.Int64
		var peace atomic.Bool
		other, err := w.kernel.Watch(t.Context())
		check(t, err)
		go func() {
			for range other.C {
				if !peace.Load() && has() {
					check(t, w.kernel.Apply(plan.DelRule{Rule: plan.Rule{Rule: contested}}))
					undone.Add(1)
				}
			}
		}()
		check(t, w.kernel.Apply(plan.DelRule{Rule: plan.Rule{Rule: contested}}))
		w.after(30 * time.Second)
		rounds := undone.Load()
		if rounds == 0 || rounds > 2*maxContest || has() {
			t.Fatalf("undone %d times; there: %v", rounds, has())
		}
		if len(w.warned) != 1 || !strings.Contains(w.warned[0], "pref 1001 from 10.0.1.21 lookup 1001") {
			t.Errorf("warnings %q", w.warned)
		}
		// The rest is mended meanwhile.
		eth2, _, err := w.linkOf("eth2")
		check(t, err)
		check(t, w.kernel.Apply(plan.SetGroup{Link: eth2}))
		w.after(time.Second)
		if l, _, _ := w.linkOf("eth2"); l.Group != 1000 {
			t.Errorf("eth2 is in group %d", l.Group)
		}
		w.after(time.Hour)
		if undone.Load() == rounds {
			t.Error("not tried again in an hour")
		}
		if n := undone.Load(); n > 8*maxContest {
			t.Errorf("undone %d times in an hour", n)
		}
		peace.Store(true)
		w.after(2 * time.Hour)
		same(t, "rules in the end", w.kernelRules(t), before)
	})
}

// If a program flushes all rules whenever they come, there is one warning, not one a rule.
func TestWatchContestOfAll(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		flush := func() (n int) {
			for _, r := range w.state(t).Rules {
				if r.Protocol == iprule.Protocol {
					check(t, w.kernel.Apply(plan.DelRule{Rule: r}))
					n++
				}
			}
			return n
		}
		all := flush()
		for range 30 {
			w.after(300 * time.Millisecond)
			flush()
		}
		if want := fmt.Sprintf("undoes this and %d more changes again and again: leaving them alone for 1m0s: ip rule add", all-1); len(w.warned) != 1 || !strings.Contains(w.warned[0], want) {
			t.Errorf("warnings %q\nwant %q", w.warned, want)
		}
		for range 600 {
			w.after(6 * time.Second)
			flush()
		}
		if n := len(w.warned); n > 10 {
			t.Errorf("%d warnings in an hour:\n%s", n, strings.Join(w.warned, "\n"))
		}
	})
}

// What EC2 assigns and takes away follows within one refresh, on the primary too. A
// refresh with nothing to do changes nothing, and writes nothing.
func TestWatchRefreshes(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		w.after(2 * time.Minute)
		_, err := w.kept.changed()
		check(t, err)
		lines := len(w.log)
		w.after(10 * time.Minute)
		written, err := w.kept.changed()
		check(t, err)
		same(t, "files written", slices.Collect(maps.Keys(written)), nil)
		same(t, "log", w.log[lines:], nil)

		for mac, change := range map[facts.MAC][]netip.Addr{
			primaryMAC:         addrs("10.0.0.10", "10.0.0.11"),
			w.attached["eth1"]: addrs("10.0.1.20", "10.0.1.22"),
		} {
			w.says(mac, func(e *facts.ENI) { e.IPv4 = change })
		}
		w.after(70 * time.Second)
		s := w.state(t)
		for name, want := range map[string]bool{"10.0.0.11": true, "10.0.1.21": false, "10.0.1.22": true} {
			there := slices.ContainsFunc(s.Addrs, func(a plan.Addr) bool { return a.Prefix.Addr().String() == name })
			if there != want {
				t.Errorf("%s is there: %v", name, there)
			}
		}
		if !slices.Contains(rulesOf(s), "pref 1001 from 10.0.1.22 lookup 1001 protocol 236") {
			t.Errorf("rules %q", rulesOf(s))
		}
	})
}

// While IMDS does not answer, what is taken away comes back all the same, and one line
// says that it does not.
func TestWatchWithoutIMDS(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		w.says(primaryMAC, func(*facts.ENI) {})
		w.vpc.mu.Lock()
		w.vpc.err = errors.New("IMDS is gone")
		w.vpc.mu.Unlock()
		before := w.picture(t)
		for range 20 {
			w.after(time.Minute)
			eth1, _, err := w.linkOf("eth1")
			check(t, err)
			check(t, w.kernel.Apply(plan.SetGroup{Link: eth1}))
			w.after(time.Second)
			same(t, "state", w.picture(t), before)
		}
		if len(w.warned) != 1 {
			t.Errorf("warnings %q", w.warned)
		}
	})
}

// An event that udev lost, or that failed, happens again: of an ENI that is not
// configured, of one that is gone and was not taken down; less and less often if that
// does not help.
func TestWatchSeeks(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		w.seen.take()
		check(t, w.Remove(t.Context(), "eth1"))
		w.after(time.Second)
		same(t, "added at once", w.seen.take(), nil)
		w.after(5 * time.Second)
		same(t, "added", w.seen.take(), []string{"add eth1"})
		w.after(time.Hour)
		if n := len(w.seen.take()); n < 6 || n > 12 {
			t.Errorf("added %d times in an hour", n)
		}
		check(t, w.Add(t.Context(), "eth1"))
		w.seen.take()

		w.unplug(t, "eth2")
		w.after(10 * time.Second)
		same(t, "taken down", w.seen.take(), []string{"remove eth2"})
		check(t, w.RemoveIfGone(t.Context(), "eth2"))
		w.seen.take()
		w.after(time.Hour)
		same(t, "in the end", w.seen.take(), nil)
	})
}

// While somebody is at work on an ENI, or after a person took it down, or set it down,
// it is left as it is.
func TestWatchSeeksNot(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		w.seen.take()
		check(t, w.links.set("eth2", false)) // ip link set eth2 down
		check(t, w.Down(t.Context(), "eth1"))
		w.after(time.Hour)
		same(t, "added", w.seen.take(), nil)

		// Another device gets the name, and hotplug is at work.
		w.unplug(t, "eth1")
		w.plug(t, "eth1", facts.MAC{2, 0, 0, 0, 1, 1}, addrs("10.0.1.20", "10.0.1.21"))
		unlock, _, err := w.tryLock("eth1")
		check(t, err)
		w.after(time.Minute)
		same(t, "added while hotplug is at work", w.seen.take(), nil)
		unlock()
		w.after(2 * time.Second)
		same(t, "added", w.seen.take(), []string{"add eth1"})
	})
}

// A person takes an ENI down by ec2ifdown, and brings it up by ifup: then it is up for
// ec2net too, so that nothing of it stays when it goes.
func TestWatchUpByHand(t *testing.T) {
	watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
		before := w.picture(t)
		check(t, w.Down(t.Context(), "eth1"))
		w.after(time.Minute)
		w.seen.take()
		check(t, w.run(t.Context(), "ifup", "eth1"))
		w.after(10 * time.Second)
		same(t, "added", w.seen.take(), []string{"add eth1"})
		check(t, w.Add(t.Context(), "eth1"))
		w.after(time.Hour)
		same(t, "added afterwards", w.seen.take(), nil)
		same(t, "up", w.picture(t), before)
		if w.file(t, notePath("eth1")) == "" || w.file(t, downPath("eth1")) != "" {
			t.Error("it does not count as up")
		}
	})
}

// ENIs that came before the primary had its address are added when it gets one.
func TestWatchPrimaryFirst(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		check(t, w.Remove(t.Context(), "eth1"))
		check(t, w.takeAll("eth0"))
		w.after(time.Hour)
		w.seen.take()
		check(t, w.give("eth0", "10.0.0.10/24"))
		w.after(time.Second)
		same(t, "added", w.seen.take(), []string{"add eth1"})
	})
}

// An ENI of which nothing is known is found by IMDS's list, also if another ENI had its name.
func TestWatchFindsUnknown(t *testing.T) {
	for _, name := range []string{"eth3", "eth1"} {
		watched(t, time.Minute, func(t *testing.T, w *watchedWorld) {
			if name == "eth1" {
				w.kernel.(*mem.Kernel).DelLink("eth1")
				check(t, w.Remove(t.Context(), "eth1"))
			}
			w.seen.take()
			mac := facts.MAC{2, 0, 0, 0, 1, 3}
			w.says(mac, func(e *facts.ENI) {
				*e = facts.ENI{MAC: mac, ID: "eni-3", DeviceNumber: 3, PrimaryMAC: primaryMAC, IPv4: addrs("10.0.1.40"),
					Subnet: netip.MustParsePrefix("10.0.1.0/24")}
			})
			w.kernel.(*mem.Kernel).AddLink(name, mac, true)
			w.after(2 * time.Minute)
			if seen := w.seen.take(); len(seen) == 0 || seen[0] != "add "+name {
				t.Errorf("%s: %q", name, seen)
			}
		})
	}
}

// The watch of the primary's table leaves the rule of the leased address alone.
func TestWatchKeepsLease(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.withPrimaryTable(t)
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

// If EC2NET_REFRESH becomes shorter while watch runs, watch does not wait for the end of the
// old period.
func TestWatchTakesAShorterRefresh(t *testing.T) {
	watched(t, 24*time.Hour, func(t *testing.T, w *watchedWorld) {
		w.after(25 * time.Hour) // the first refresh comes at a random time
		asked := w.vpc.asks
		h := *w.Host
		h.Every = time.Minute
		w.Host = &h
		check(t, w.kernel.Apply(plan.DelRule{Rule: w.rules(t)[0]})) // an event
		w.after(2 * time.Minute)
		if w.vpc.asks == asked {
			t.Error("IMDS was not asked")
		}
	})
}

// systemd-networkd has no hook that asks IMDS at a renewal: watch does, unless it asks anyway.
func TestWatchLease(t *testing.T) {
	for _, c := range []struct {
		stack render.Stack
		every time.Duration
		want  bool
	}{{render.Networkd, 0, true}, {render.Networkd, time.Hour, false}, {render.Ifupdown, 0, false}} {
		t.Run(fmt.Sprint(c.stack, " ", c.every), func(t *testing.T) {
			watched(t, c.every, func(t *testing.T, w *watchedWorld) {
				w.Stack = c.stack
				k := w.kernel.(*mem.Kernel)
				k.Mangled() // watch looks again
				w.after(time.Second)
				asked := w.vpc.asks
				k.Leased()
				w.after(time.Second)
				if got := w.vpc.asks > asked; got != c.want {
					t.Errorf("asked IMDS: %v", got)
				}
			})
		})
	}
}

// udev has lost the "add" of an ENI, without which networkd does not decide who configures it:
// watch asks for another one, and so does hotplug.
func TestUndecided(t *testing.T) {
	watched(t, 0, func(t *testing.T, w *watchedWorld) {
		check(t, w.Remove(t.Context(), "eth1"))
		w.after(time.Second)
		w.Stack = render.Networkd
		w.put(t, "/run/systemd/netif/state", "OPER_STATE=routable\n")
		w.put(t, "/run/dbus/system_bus_socket", "")
		eth1, _, err := w.linkOf("eth1")
		check(t, err)
		state := fmt.Sprintf("/run/systemd/netif/links/%d", eth1.Index)
		w.put(t, state, "ADMIN_STATE=pending\n")
		w.kernel.(*mem.Kernel).Mangled() // watch takes the settings of now
		w.seen.take()
		w.after(20 * time.Second)
		if asked := w.seen.take(); !slices.Contains(asked, "add eth1") {
			t.Errorf("watch has asked for %v", asked)
		}

		w.Replay = func(string) error {
			w.put(t, state, "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/mine.network\n")
			return nil
		}
		var left *UnmanagedError
		if err := w.Add(t.Context(), "eth1"); !errors.As(err, &left) {
			t.Errorf("%v", err)
		}
	})
}
