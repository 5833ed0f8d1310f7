package hooks

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/lab/report"
	"ec2net/lab/unshared"
	"ec2net/plan"
)

// entry is a way to call ec2net, and how to prepare the machine for it.
type entry struct {
	name  string
	ready func(*testing.T, *world)
	call  func(*testing.T, *world) error
	// takes says that the call removes eth1's rules.
	takes bool
}

func leaseOf(reason string) func(*testing.T, *world) error {
	return func(t *testing.T, w *world) error {
		return w.OnLease(t.Context(), Lease{"eth1", reason, netip.MustParseAddr("10.0.2.10")})
	}
}

var entries = []entry{
	{"hotplug add", func(t *testing.T, w *world) { w.plugged(t, "eth1") },
		func(t *testing.T, w *world) error { return w.Add(t.Context(), "eth1") }, false},
	{"hotplug remove", func(t *testing.T, w *world) { w.upAndKnown(t, "eth1"); w.unplug(t, "eth1") },
		func(t *testing.T, w *world) error { return w.RemoveIfGone(t.Context(), "eth1") }, true},
	{"BOUND", func(t *testing.T, w *world) { w.upAndKnown(t, "eth1"); w.rulesLost(t) }, leaseOf("BOUND"), false},
	{"RENEW", func(t *testing.T, w *world) { w.upAndKnown(t, "eth1"); w.readdress(t) }, leaseOf("RENEW"), false},
	{"RELEASE", func(t *testing.T, w *world) { w.upAndKnown(t, "eth1") }, leaseOf("RELEASE"), true},
	{"scan", func(t *testing.T, w *world) { w.plugged(t, "eth1") },
		func(t *testing.T, w *world) error { return w.Scan(t.Context()) }, false},
}

// plugged attaches eth1, on a machine on which eth2 is up.
func (w *world) plugged(t *testing.T, name string) {
	t.Helper()
	w.plug(t, "eth2", facts.MAC{2, 0, 0, 0, 1, 2}, addrs("10.0.1.20", "10.0.1.21"))
	check(t, w.Add(t.Context(), "eth2"))
	w.plug(t, name, facts.MAC{2, 0, 0, 0, 1, 1}, addrs("10.0.2.10", "10.0.2.11"))
}

func (w *world) upAndKnown(t *testing.T, name string) {
	t.Helper()
	w.plugged(t, name)
	check(t, w.Add(t.Context(), name))
}

// rulesLost deletes all rules of eth1 except for that of its leased address.
func (w *world) rulesLost(t *testing.T) {
	t.Helper()
	for _, k := range w.rules(t) {
		if k.Priority == 1001 && k.Table == 1001 && k.From != netip.MustParsePrefix("10.0.2.10/32") {
			check(t, w.kernel.Apply(plan.DelRule{Rule: k}))
		}
	}
}

// readdress replaces an address of eth1, as EC2 does.
func (w *world) readdress(t *testing.T) {
	t.Helper()
	mac := w.attached["eth1"]
	e := w.vpc.enis[mac]
	e.IPv4 = addrs("10.0.2.10", "10.0.2.12")
	w.vpc.enis[mac] = e
}

// outcome is the state of the machine after the call of an entry.
type outcome struct {
	rules, addrs, added []string
	files               map[string]string
}

func (w *world) outcome(t *testing.T) outcome {
	t.Helper()
	o := outcome{rules: w.kernelRules(t), added: w.added, files: w.files(t)}
	for _, name := range slices.Sorted(maps.Keys(w.attached)) {
		o.addrs = append(o.addrs, name+": "+strings.Join(w.addrsNow(t, name), " "))
	}
	for path := range o.files {
		switch {
		case strings.HasSuffix(path, ".up"):
			o.files[path] = "" // the text has the index of the device
		case strings.HasSuffix(path, ".lease"):
			delete(o.files, path) // if a hook was struck before it wrote this, the next one does
		}
	}
	return o
}

func (o outcome) String() string {
	return fmt.Sprintf("%s\n%s\nadded %q\n%q", strings.Join(o.rules, "\n"), strings.Join(o.addrs, "\n"), o.added, o.files)
}

// Each request to the kernel fails in turn, in each way, at each entry. ec2net reports the
// error, or makes the request again; rules that worked stay; and the same call, made
// again, has the same result as without a failure.
func TestNetlinkFails(t *testing.T) {
	unshared.Need(t)
	faults := []struct {
		name string
		err  error
	}{
		{"EPERM", unix.EPERM}, {"EBUSY", unix.EBUSY}, {"EEXIST", unix.EEXIST}, {"ENODEV", unix.ENODEV}, {"ENOBUFS", unix.ENOBUFS},
		{"dump interrupted, again and again", unix.EINTR},
	}
	if testing.Short() { // the errors differ little in what they lead to
		faults = faults[len(faults)-2:]
	}
	cells := make([][]string, len(faults))
	t.Run("all", func(t *testing.T) {
		for i, fault := range faults {
			cells[i] = make([]string, len(entries))
			for j, e := range entries {
				t.Run(fault.name+"/"+e.name, func(t *testing.T) {
					t.Parallel()
					cells[i][j] = netlinkFails(t, e, fault.err)
				})
			}
		}
	})
	if t.Failed() || testing.Short() {
		return
	}
	var table strings.Builder
	table.WriteString("| every request fails once, with |")
	for _, e := range entries {
		table.WriteString(" " + e.name + " |")
	}
	table.WriteString("\n|" + strings.Repeat(" --- |", len(entries)+1) + "\n")
	for i, fault := range faults {
		fmt.Fprintf(&table, "| %s | %s |\n", fault.name, strings.Join(cells[i], " | "))
	}
	report.Section(t, "../docs/reliability.md", "netlink", table.String())
}

// netlinkFails fills a cell of the table: one run for each request of an entry.
func netlinkFails(t *testing.T, e entry, failure error) string {
	told, mended := 0, 0
	want := [2]outcome{unstruck(t, e, 1), unstruck(t, e, 2)} // after one call, and after two
	for n := 0; ; n++ {
		var first, got outcome
		var hit string
		var err error
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, realKernel, nil)
			e.ready(t, w)
			before := w.kernelRules(t)
			w.added = nil
			*w.strike = strike{at: n, err: failure, netlink: true}
			w.told = nil
			err = errors.Join(e.call(t, w), w.told)
			hit = w.strike.hit
			*w.strike = strike{}
			for _, rule := range before {
				lost := !slices.Contains(w.kernelRules(t), rule)
				// IMDS no longer lists 10.0.2.11.
				if lost && !e.takes && !strings.Contains(rule, "10.0.2.11") {
					t.Errorf("%s failed: lost %s", hit, rule)
				}
				if lost && strings.Contains(rule, "1002") {
					t.Errorf("%s failed: eth2 lost %s", hit, rule)
				}
			}
			first = w.outcome(t)
			if hit != "" {
				w.added = nil
				check(t, e.call(t, w))
			}
			got = w.outcome(t)
		})
		calls := 1
		if hit != "" {
			calls = 2
		}
		if want := want[calls-1]; got.String() != want.String() {
			t.Errorf("%q failed (%v), and called again:\n%v\nwant:\n%v", hit, err, got, want)
		}
		switch {
		case n == 0:
			check(t, err)
		case hit == "":
			if told+mended == 0 {
				t.Error("ec2net made no request")
			}
			return fmt.Sprintf("%d told, %d made again", told, mended)
		case err == nil:
			if first.String() != want[0].String() {
				t.Errorf("%q failed, and ec2net did not report it:\n%v\nwant:\n%v", hit, first, want[0])
			}
			mended++
		case !errors.Is(err, failure) || strings.Contains(err.Error(), "\n\n"):
			t.Errorf("%q failed: %v", hit, err)
			return ""
		default:
			told++
		}
	}
}

// unstruck returns the outcome of an entry without a failure.
func unstruck(t *testing.T, e entry, calls int) (got outcome) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, realKernel, nil)
		e.ready(t, w)
		for range calls {
			w.added = nil
			check(t, e.call(t, w))
		}
		got = w.outcome(t)
	})
	return got
}
