package hooks

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/facts"
	"ec2net/hooks/mangle"
	"ec2net/lab/report"
	"ec2net/lab/unshared"
	"ec2net/plan"
	"ec2net/stack/networkd"
)

var (
	sequences = flag.Int("sequences", 0, "how many random sequences TestSequences runs; 0: 10, or 2 with -short")
	inMemory  = flag.Int("memory", 0, "how many TestSequencesInMemory runs; 0: 1000, or 50 with -short or -race")
	seed      = flag.Uint64("seed", 1, "the seed of the first one; the others follow")
)

// howMany returns how many sequences to run: given, if it is set.
func howMany(given, usual, few int, hurry bool) int {
	switch {
	case given > 0:
		return given
	case hurry:
		return few
	}
	return usual
}

// sequenceSteps is how many steps a sequence has.
const sequenceSteps = 200

// TestSequences runs sequences of 200 random steps on a machine, and compares it with a
// model after each step. The same -seed gives the same sequence. It runs in a bubble of
// package synctest, so waiting for an IMDS that is gone takes no time.
func TestSequences(t *testing.T) {
	unshared.Need(t)
	happened := runSequences(t, howMany(*sequences, 10, 2, testing.Short()), realKernel)
	if *seed == 1 && *sequences == soak && !t.Failed() {
		report.Section(t, "../docs/reliability.md", "soak", happened.table())
	}
}

// TestSequencesInMemory does the same on the kernel in memory, with more sequences.
func TestSequencesInMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // nothing lives longer than a sequence
	runSequences(t, howMany(*inMemory, 1000, 50, testing.Short() || race), kernelInMemory)
}

func runSequences(t *testing.T, n int, boot boot) *tally {
	var happened tally
	t.Run("all", func(t *testing.T) {
		for s := *seed; s < *seed+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					(&sequence{world: newWorld(t, boot, networkdOf(s)), rng: rand.New(rand.NewPCG(s, 0)), t: t, happened: &happened, forwarding: s%5 == 0,
						seen: map[string][]facts.ENI{}, holds: map[string]string{}, numbers: map[string]int{},
						moves: moves{lagging: map[netip.Addr]facts.MAC{}, claims: map[netip.Addr]claim{}}}).run()
				})
			})
		}
	})
	return &happened
}

// networkdOf returns the systemd-networkd of a sequence; nil, if ifupdown brings its ENIs up.
func networkdOf(seed uint64) *fakeNetworkd {
	if seed%3 != 0 {
		return nil
	}
	return &fakeNetworkd{slow: seed%2 == 0, ruthless: seed%4 == 0, watches: seed%9 != 0}
}

// soak is how many sequences "make soak" runs.
const soak = 1000

// tally counts the steps and their results.
type tally struct{ plugs, unplugs, leases, changes, moves, failures, reboots, killed, failed atomic.Int64 }

func (n *tally) table() string {
	return fmt.Sprintf(`| seeds | 1 to %d |
| --- | --- |
| steps | %d each |
| ENIs plugged in | %d |
| unplugged, or taken down | %d |
| events of the DHCP client | %d |
| changes of addresses in EC2 | %d |
| addresses that moved to another ENI | %d |
| times IMDS failed, until it was well again | %d |
| reboots | %d |
| ec2net was killed | %d |
| a netlink or other call failed | %d |
| findings | none |
`, soak, sequenceSteps, n.plugs.Load(), n.unplugs.Load(), n.leases.Load(), n.changes.Load(), n.moves.Load(), n.failures.Load(), n.reboots.Load(),
		n.killed.Load(), n.failed.Load())
}

// sequence is a world and its model.
type sequence struct {
	*world
	t        *testing.T
	rng      *rand.Rand
	happened *tally
	// forwarding says that the machine begins and ceases to forward packets now and then. In
	// four sequences of five it never forwards, and there are no marks: with marks a sequence
	// takes a fifth longer.
	forwarding bool
	// seen has, by name, the facts that ec2net remembers; several if it was struck, and may
	// have written one or the other.
	seen map[string][]facts.ENI
	// holds has, by interface, the rule of the leased address, once it was there and
	// while no step was to remove it.
	holds map[string]string
	// said is the error of the last run of ec2net.
	said error
	// slack are addresses that ec2net may have given an interface without writing that
	// down.
	slack []string
	// numbers has, by name, the numbers of the ENIs, attached or detached.
	numbers map[string]int
	moves
}

func (s *sequence) run() {
	for range sequenceSteps {
		s.step()
		if s.t.Failed() {
			break
		}
	}
	if !s.t.Failed() {
		s.settle()
	}
	if s.t.Failed() {
		s.t.Logf("the steps:\n%s\nthe log:\n%s", strings.Join(s.steps, "\n"), strings.Join(s.log[max(0, len(s.log)-30):], "\n"))
	}
}

// names are the names of ENIs. The number of ens4 follows from its device number, so it may
// be that of another name.
var names = []string{"eth1", "eth2", "eth3", "ens4"}

func (s *sequence) step() {
	name := names[s.rng.IntN(len(names))]
	_, there := s.attached[name]
	*s.strike, s.wiped = strike{}, false
	switch p := s.rng.IntN(100); {
	case p < 25:
		*s.strike = strike{at: 1 + s.rng.IntN(40)} // killed
	case p < 45:
		*s.strike = strike{at: 1 + s.rng.IntN(40), err: errnos[s.rng.IntN(len(errnos))]}
	}
	switch p := s.rng.IntN(100); {
	case p < 20 && !there:
		mac, ips := s.newENI(name)
		if mac == (facts.MAC{}) {
			return
		}
		s.note("plug %s, %s: %v", name, mac, ips)
		s.plug(name, mac, ips)
		s.add(name)
	case p < 20:
		s.note("udev adds %s again", name)
		s.add(name)
	case p < 32 && there:
		s.note("unplug %s", name)
		s.unplug(s.t, name)
		delete(s.holds, name)
		s.remove(name)
	case p < 36 && there:
		// udev's events come late: "remove" when the next device is already there, or never.
		mac, ips := s.newENI(name)
		if mac == (facts.MAC{}) {
			return
		}
		first := s.rng.IntN(3)
		s.note("unplug %s and plug in %s: %v, events %d", name, mac, ips, first)
		s.unplug(s.t, name)
		delete(s.holds, name)
		s.plug(name, mac, ips)
		if first == 0 {
			s.remove(name)
		}
		s.add(name)
		if first == 1 {
			s.remove(name)
		}
	case p < 39 && there:
		s.rename(name)
	case p < 65 && s.up[name].IsValid():
		s.leaseEvent(name, []string{"RENEW", "RENEW", "REBIND", "BOUND"}[s.rng.IntN(4)])
	case p < 69 && s.up[name].IsValid() && s.networkd != nil:
		s.networkdActs(name)
	case p < 69 && s.up[name].IsValid():
		s.leaseEvent(name, []string{"EXPIRE", "FAIL", "NAK"}[s.rng.IntN(3)])
	case p < 75 && there:
		s.note("%s is taken down by hand", name)
		s.down(name)
	case p < 79:
		s.happened.leases.Add(1)
		s.note("lease of eth0")
		s.ran1("eth0", func() error { return s.primaryBound(s.t) })
		s.replayed()
	case p < 82:
		s.note("scan")
		well := s.ran1("scan", func() error { return s.Scan(s.t.Context()) })
		s.replayed()
		if well && s.strike.hit == "" && s.vpc.err == nil {
			for name := range s.attached {
				s.answer(name)
			}
		}
	case p < 86 && there:
		s.changeAddresses(name)
	case p < 90 && there:
		s.move(name)
	case p < 92 && there:
		s.meddle(name)
	case p < 97:
		s.vpc.err = nil
		if s.rng.IntN(2) == 0 {
			s.happened.failures.Add(1)
			s.vpc.err = failures[s.rng.IntN(len(failures))]
		}
		s.note("IMDS: %v", s.vpc.err)
	case p < 99:
		s.happened.reboots.Add(1)
		s.note("reboot")
		s.powerOn(s.t)
		s.slack = nil
		clear(s.holds)
		for _, name := range s.shuffled() {
			s.add(name)
		}
	case s.forwarding:
		s.forwards = !s.forwards
		s.note("the machine forwards packets: %t", s.forwards)
		s.keepMarks()
	}
	wrong := s.always(s.t)
	rules := s.kernelRules(s.t)
	if s.wiped {
		clear(s.holds)
	}
	for name, rule := range s.holds {
		if !slices.Contains(rules, rule) {
			wrong = append(wrong, fmt.Sprintf("%s, which works, has lost %q", name, rule))
		}
	}
	if len(wrong) > 0 {
		s.fail("%s", strings.Join(wrong, "\n"))
	}
}

func (s *sequence) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if s.strike.at > 0 {
		line += fmt.Sprintf(" [struck at call %d: %v]", s.strike.at, s.strike.err)
	}
	s.steps = append(s.steps, line)
}

func (s *sequence) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("after step %d, %q: %s\nrules:\n  %s", len(s.steps), s.steps[len(s.steps)-1], fmt.Sprintf(format, args...), strings.Join(s.kernelRules(s.t), "\n  "))
}

// ran1 runs ec2net once, checks how long it took, and reports whether it succeeded
// without being struck. An error without a cause fails the test.
func (s *sequence) ran1(name string, run func() error) (well bool) {
	s.t.Helper()
	start, hit := time.Now(), s.strike.hit
	before := s.kernelRules(s.t)
	err := survive(run)
	s.said = err
	state := s.state(s.t)
	if slices.ContainsFunc(rulesOf(state), func(r string) bool { return isGroupRule(r) && !slices.Contains(before, r) }) {
		// A group rule that was there before stays if another program changes a group.
		if wrong := s.outside(state, func(group int) bool { return group == s.Numbers.Base }); len(wrong) > 0 {
			s.fail("%s", strings.Join(wrong, "\n"))
		}
	}
	// 40 s for IMDS and, at most, what a hook waits for it in ifup and ifdown; or the lease of
	// networkd, after its file.
	limit := hotplugIMDS + oneIMDS + 3*leaseIMDS
	if s.networkd != nil {
		limit += networkd.Limit
	}
	if took := time.Since(start); took > limit {
		s.fail("took %v", took)
	}
	if s.strike.hit != hit {
		if s.strike.err == nil {
			s.happened.killed.Add(1)
		} else {
			s.happened.failed.Add(1)
		}
		s.steps = append(s.steps, fmt.Sprintf("  struck at %s: %v", s.strike.hit, err))
		if len(s.seen[name]) == 0 {
			s.saw(name, facts.ENI{}) // perhaps ec2net has written nothing
		}
		if s.vpc.err == nil {
			s.saw(name, s.vpc.enis[s.attached[name]])
		} else {
			s.saw(name, s.elsewhere(name)...)
		}
		s.doubt(name)
		// ec2net may have added an address without writing its facts.
		for _, a := range s.vpc.enis[s.attached[name]].IPv4 {
			s.slack = append(s.slack, a.String())
		}
		return false
	}
	if err != nil {
		if s.vpc.err == nil {
			s.fail("%s: %v", name, err)
		}
		s.steps = append(s.steps, fmt.Sprintf("  %v", err))
		return false
	}
	return true
}

// saw adds facts that ec2net may have written under a name.
func (s *sequence) saw(name string, all ...facts.ENI) {
	for _, e := range all {
		if !slices.ContainsFunc(s.seen[name], func(o facts.ENI) bool { return o.MAC == e.MAC && slices.Equal(o.IPv4, e.IPv4) }) {
			s.seen[name] = append(s.seen[name], e)
		}
	}
}

// told updates the model after a run of ec2net that succeeded.
func (s *sequence) told(name string) {
	s.ungrouped = false
	if s.vpc.err != nil {
		if said := s.elsewhere(name); len(said) > 0 { // ec2net may use these, and write them
			s.saw(name, said...)
			s.doubt(name)
		}
		return
	}
	s.claim(name)
	s.seen[name] = []facts.ENI{s.vpc.enis[s.attached[name]]}
	if e, err := s.memory().facts(name); err != nil || e.MAC != s.attached[name] {
		s.fail("the facts on disk are those of %v: %v", e.MAC, err)
	}
}

// settle ends all failures, and compares the machine with a new one that has the same ENIs.
func (s *sequence) settle() {
	*s.strike, s.vpc.err = strike{}, nil
	s.catchUp()
	s.note("all is well again")
	for _, l := range s.state(s.t).Links {
		if l.Group == 7 {
			check(s.t, s.kernel.Apply(plan.SetGroup{Link: l}))
		}
	}
	for _, name := range names {
		if _, there := s.attached[name]; there {
			s.add(name)
			s.leaseEvent(name, "RENEW")
		} else {
			s.remove(name)
		}
	}
	var by *fakeNetworkd
	if s.networkd != nil {
		by = &fakeNetworkd{}
	}
	fresh := newWorld(s.t, s.boot, by)
	for name, mac := range s.attached {
		fresh.plug(s.t, name, mac, s.vpc.enis[mac].IPv4)
		check(s.t, fresh.Add(s.t.Context(), name))
	}
	if s.forwarding {
		for _, w := range []*world{s.world, fresh} {
			w.forwards = true
			// The primary has marks once IMDS has told its facts.
			check(s.t, w.primaryBound(s.t))
			check(s.t, w.KeepMarks(s.t.Context(), ""))
		}
		same(s.t, "marks at the end", s.firewall.text(mangle.NFT), fresh.firewall.text(mangle.NFT))
	}
	same(s.t, "rules at the end", s.kernelRules(s.t), fresh.kernelRules(s.t))
	files, want := s.files(s.t), fresh.files(s.t)
	for path, text := range want {
		if !strings.HasSuffix(path, ".up") && !strings.HasSuffix(path, ".lease") && files[path] != text { // those texts have the index of the device
			s.fail("%s at the end:\n%s\nwant:\n%s", path, files[path], text)
		}
	}
	for path := range files {
		if _, ok := want[path]; !ok && (strings.HasSuffix(path, ".up") || strings.HasSuffix(path, ".down") || (strings.HasSuffix(path, ".lease") && path != leasePath("eth0"))) {
			s.fail("%s is left", path)
		}
	}
}
