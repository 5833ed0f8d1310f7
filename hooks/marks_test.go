package hooks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"ec2net/hooks/mangle"
	mem "ec2net/kernel/memory"
)

// forwarding runs a test on a machine in memory that is watched, and that forwards
// packets from now on.
func forwarding(t *testing.T, every time.Duration, test func(t *testing.T, w *watchedWorld, whole []string)) {
	t.Helper()
	watched(t, every, func(t *testing.T, w *watchedWorld) {
		if looks := w.firewall.looked() + len(w.firewall.ran); looks != 0 {
			t.Errorf("%d processes for a machine that forwards nothing", looks)
		}
		k := w.kernel.(*mem.Kernel)
		w.firewall.changed = func() {
			if w.firewall.inUse() == mangle.NFT {
				k.Mangled()
			}
		}
		k.Forward(true)
		w.after(time.Second)
		whole := w.firewall.text(mangle.NFT)
		for _, jump := range []string{"PREROUTING -j ec2net-docker", "PREROUTING -i eth1 -j ec2net-eth1", "PREROUTING -i eth2 -j ec2net-eth2"} {
			if !slices.Contains(whole, jump) {
				t.Fatalf("no %q in\n%s", jump, strings.Join(whole, "\n"))
			}
		}
		test(t, w, whole)
	})
}

// The marks are there while the machine forwards packets, and at no other time. What a
// firewall takes away comes back.
func TestMarksWatched(t *testing.T) {
	forwarding(t, 0, func(t *testing.T, w *watchedWorld, whole []string) {
		f := w.firewall
		w.after(time.Hour)
		if n := f.looked(); n > 6 {
			t.Errorf("%d looks, and nothing happened", n)
		}
		f.flush()
		w.after(time.Second)
		same(t, "flushed", f.text(mangle.NFT), whole)
		f.do(func() { f.tables[mangle.NFT]["ec2net-eth1"] = nil })
		w.kernel.(*mem.Kernel).Mangled()
		w.after(time.Second)
		same(t, "a chain flushed", f.text(mangle.NFT), whole)
		f.do(func() {
			f.tables[mangle.NFT]["PREROUTING"] = append(f.tables[mangle.NFT]["PREROUTING"], "-i eth1 -j ec2net-eth1")
		})
		w.kernel.(*mem.Kernel).Mangled()
		w.after(time.Second)
		same(t, "a jump doubled", f.text(mangle.NFT), whole)

		w.kernel.(*mem.Kernel).Forward(false)
		w.after(time.Second)
		same(t, "no forwarding", f.text(mangle.NFT), []string{})
		looks := f.looked()
		w.after(time.Hour)
		if n := f.looked(); n != looks {
			t.Errorf("%d looks without forwarding", n-looks)
		}

		// There is no iptables: nothing is wrong with that.
		f.do(func() { f.refuses = fmt.Errorf("there is no iptables-save: %w", fs.ErrNotExist) })
		warned := len(w.warned)
		check(t, w.Scan(t.Context()))
		check(t, w.MendMarks(t.Context()))
		same(t, "warnings without iptables", w.warned[warned:], nil)
	})
}

// Somebody restores an old save of the firewall on a machine that forwards nothing, with the
// marks of ENIs that are here and that are gone. Watch removes them; so does a scan, as at boot.
func TestMarksRestored(t *testing.T) {
	forwarding(t, 0, func(t *testing.T, w *watchedWorld, _ []string) {
		f, k := w.firewall, w.kernel.(*mem.Kernel)
		saved := map[string][]string{"ec2net-eth9": {"-j RETURN"}, "mine": {"-j RETURN"}}
		f.do(func() { maps.Copy(saved, f.tables[mangle.NFT]) })
		saved["PREROUTING"] = append(slices.Clone(saved["PREROUTING"]), "-i eth9 -j ec2net-eth9", "-i eth9 -j ec2net-eth9", "-j mine")
		left := []string{"-N mine", "PREROUTING -j mine", "mine -j RETURN"}
		k.Forward(false)
		w.after(time.Second)
		for what, tell := range map[string]func(){
			"watch":  k.Mangled,
			"a scan": func() { check(t, w.Scan(t.Context())) },
		} {
			f.do(func() {
				f.tables[mangle.NFT] = make(map[string][]string)
				for name, rules := range saved {
					f.tables[mangle.NFT][name] = slices.Clone(rules)
				}
			})
			tell()
			w.after(time.Second)
			same(t, what, f.text(mangle.NFT), left)
		}

		// iptables fails at first: watch tries again, for the same reason.
		f.do(func() {
			f.tables[mangle.NFT] = map[string][]string{"PREROUTING": nil, "ec2net-eth9": {"-j RETURN"}}
			f.refuses = errors.New("exit status 4: another program holds the lock")
		})
		k.Mangled()
		w.after(500 * time.Millisecond)
		f.do(func() { f.refuses = nil })
		w.after(2 * time.Second)
		same(t, "iptables failed", f.text(mangle.NFT), []string{})
		looks := f.looked()
		w.after(time.Hour)
		if n := f.looked(); n != looks {
			t.Errorf("%d looks without forwarding", n-looks)
		}
	})
}

// iptables-legacy tells nobody: the next refresh finds what is missing. Another back end
// gets the marks, and the one before loses them.
func TestMarksBackEnd(t *testing.T) {
	forwarding(t, time.Minute, func(t *testing.T, w *watchedWorld, whole []string) {
		f := w.firewall
		f.use(mangle.Legacy)
		w.after(2 * time.Minute)
		same(t, "legacy", f.text(mangle.Legacy), whole)
		same(t, "nft, no longer in use", f.text(mangle.NFT), []string{})
		f.flush()
		w.after(2 * time.Minute)
		same(t, "legacy, flushed", f.text(mangle.Legacy), whole)

		f.use(mangle.NFT) // and nobody looks before eth1 goes
		check(t, w.Down(t.Context(), "eth1"))
		left := slices.DeleteFunc(slices.Clone(whole), func(line string) bool {
			return strings.Contains(line, "eth1") || strings.Contains(line, "0x3e9/")
		})
		same(t, "eth1 down", f.text(mangle.NFT), left)
		same(t, "legacy, no longer in use", f.text(mangle.Legacy), []string{})
	})
}

// ec2net is killed while it makes the marks with another back end: the next look removes
// those of the former one, also if there is nothing to mark any more.
func TestMarksBackEndKilled(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		m.firewall.backEnd = mangle.Legacy
		run := m.Run
		for n := 1; ; n++ { // killed after n-1 programs
			ctx, cancel := context.WithCancel(t.Context())
			calls := 0
			m.Run = func(c context.Context, program string, args ...string) error {
				if calls++; calls >= n {
					cancel()
					return context.Canceled
				}
				return run(c, program, args...)
			}
			err := m.KeepMarks(ctx, "")
			cancel()
			m.Run = run
			m.firewall.backEnd = map[string]string{mangle.NFT: mangle.Legacy, mangle.Legacy: mangle.NFT}[m.firewall.backEnd]
			m.Marks = MarksNo
			check(t, m.KeepMarks(t.Context(), ""))
			for _, backEnd := range []string{mangle.NFT, mangle.Legacy} {
				same(t, fmt.Sprintf("killed after %d, %s", n-1, backEnd), m.firewall.text(backEnd), []string{})
			}
			m.Marks = MarksAuto
			check(t, m.KeepMarks(t.Context(), ""))
			m.firewall.backEnd = map[string]string{mangle.NFT: mangle.Legacy, mangle.Legacy: mangle.NFT}[m.firewall.backEnd]
			if err == nil {
				return
			}
		}
	})
}

// A program that removes the marks whenever they come is left to that, for longer each
// time.
func TestMarksContest(t *testing.T) {
	forwarding(t, 0, func(t *testing.T, w *watchedWorld, _ []string) {
		f := w.firewall
		w.onLogged = func(line string) {
			if strings.Contains(line, "marks were missing") {
				go func() {
					time.Sleep(time.Millisecond)
					f.flush()
				}()
			}
		}
		f.flush()
		before := f.looked()
		w.after(time.Hour)
		if looks := f.looked() - before; looks > 300 {
			t.Errorf("%d looks in an hour", looks)
		}
		if n := len(slices.DeleteFunc(slices.Clone(w.warned), func(line string) bool { return !strings.Contains(line, "removes the marks again and again") })); n == 0 || n > 8 {
			t.Errorf("%d warnings", n)
		}
	})
}

// What nftables tells during the look with which watch gives up is no reason to look before
// the wait is over.
func TestMarksContestMeanwhile(t *testing.T) {
	forwarding(t, 0, func(t *testing.T, w *watchedWorld, _ []string) {
		m := newMarker()
		for range maxContest {
			m.busy = true
			m.changed()
			m.ended(w.Host, marking{}, true, nil)
		}
		if wait := time.Until(m.next()); wait != time.Minute {
			t.Errorf("the next look is in %v", wait)
		}
	})
}

// The last ENI but the primary goes, and its note is still there: no chain is left, of which
// nobody would know.
func TestMarksGoing(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.Numbers.Primary = true
		m.forward(t, true)
		ready(t, m)
		check(t, m.Refresh(t.Context(), "eth0"))
		check(t, m.KeepMarks(t.Context(), ""))
		if text := strings.Join(m.firewall.text(mangle.NFT), "\n"); !strings.Contains(text, "ec2net-eth0") {
			t.Fatalf("marks:\n%s", text)
		}
		_, err := m.keepMarks(t.Context(), marking{going: "eth1"})
		check(t, err)
		same(t, "marks", m.firewall.text(mangle.NFT), []string{})
	})
}

// Another program removes the chains, and then there should be none: the note of them goes.
func TestMarksGone(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		check(t, m.KeepMarks(t.Context(), ""))
		m.firewall.flush()
		m.forward(t, false)
		check(t, m.KeepMarks(t.Context(), ""))
		if note := m.file(t, marksPath); note != "" {
			t.Errorf("the note is still there:\n%s", note)
		}
	})
}

// The settings decide before the forwarding does.
func TestMarksSettings(t *testing.T) {
	for name, c := range map[string]struct {
		marks   Marks
		forward bool
		want    bool
	}{"auto": {MarksAuto, false, false}, "auto, forwarding": {MarksAuto, true, true},
		"yes": {MarksYes, false, true}, "no": {MarksNo, true, false}} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				m.forward(t, c.forward)
				m.Marks = c.marks
				ready(t, m)
				if got := len(m.firewall.text(mangle.NFT)) > 0; got != c.want {
					t.Errorf("marks: %v", m.firewall.text(mangle.NFT))
				}
				// Once they were made, they go when they are no longer wanted.
				m.Marks = MarksNo
				check(t, m.KeepMarks(t.Context(), ""))
				same(t, "marks", m.firewall.text(mangle.NFT), []string{})
			})
		})
	}
}

// A renewal starts no process.
func TestMarksRenewal(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		m.firewall.flush()
		looks, ran := m.firewall.looks, len(m.ran)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if m.firewall.looks != looks || len(m.ran) != ran {
			t.Errorf("a renewal ran %v, and looked %d times", m.ran[ran:], m.firewall.looks-looks)
		}
	})
}

// A renewal makes marks that were never made, since ec2net was killed first. The renewals after
// it start no process.
func TestMarksRenewalOfHalfUp(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		whole := m.firewall.text(mangle.NFT)
		m.firewall.flush()
		check(t, m.Tree.Remove(marksPath))
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "marks", m.firewall.text(mangle.NFT), whole)
		looks := m.firewall.looks
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		if m.firewall.looks != looks {
			t.Error("another renewal looks at the marks")
		}
	})
}

// The status names whatever is wrong with the marks, and changes nothing. Its command, typed,
// mends it.
func TestStatusOfMarks(t *testing.T) {
	type table = map[string][]string
	for what, c := range map[string]struct {
		disturb func(m *machine, now table)
		want    []string
	}{
		"nothing": {func(*machine, table) {}, nil},
		"a chain flushed": {func(_ *machine, now table) { now["ec2net-eth1"] = []string{} },
			[]string{"eth1 ec2net marks # the chain ec2net-eth1 is not as it was made"}},
		"half of a chain": {func(_ *machine, now table) { now["ec2net-eth1"] = now["ec2net-eth1"][:1] },
			[]string{"eth1 ec2net marks # the chain ec2net-eth1 is not as it was made"}},
		"a jump gone": {func(_ *machine, now table) { now["PREROUTING"] = now["PREROUTING"][:1] },
			[]string{"eth1 ec2net marks # no rule of PREROUTING jumps into the chain ec2net-eth1"}},
		"a jump doubled": {func(_ *machine, now table) { now["PREROUTING"] = append(now["PREROUTING"], now["PREROUTING"]...) },
			[]string{" ec2net marks # the chain ec2net-docker is not as it was made", "eth1 ec2net marks # the chain ec2net-eth1 is not as it was made"}},
		"a chain of an ENI that is gone": {func(_ *machine, now table) { now["ec2net-eth9"] = []string{} },
			[]string{" ec2net marks # the chain ec2net-eth9 should not be there"}},
		"all flushed": {func(m *machine, _ table) { m.firewall.flush() },
			[]string{" ec2net marks # the chain ec2net-docker is missing", "eth1 ec2net marks # the chain ec2net-eth1 is missing"}},
		"never made": {func(m *machine, _ table) {
			m.firewall.flush()
			check(t, m.Tree.Remove(marksPath))
			check(t, m.Tree.Remove(answersPath))
		}, []string{" ec2net marks # the chain ec2net-docker is missing", "eth1 ec2net marks # the chain ec2net-eth1 is missing"}},
		"another back end": {func(m *machine, _ table) { m.firewall.use(mangle.Legacy) },
			[]string{" ec2net marks # the chain ec2net-docker is missing", "eth1 ec2net marks # the chain ec2net-eth1 is missing"}},
		"killed while the back end changed": {func(m *machine, _ table) {
			_, err := m.Tree.Write(marksPath, []byte(mangle.Unknown+"\n"))
			check(t, err)
		}, []string{" ec2net marks # the chain ec2net-docker is not as it was made", "eth1 ec2net marks # the chain ec2net-eth1 is not as it was made"}},
		"not wanted, and an old save of the firewall restored": {func(m *machine, now table) {
			m.forward(t, false)
			old := maps.Clone(now)
			check(t, m.KeepMarks(t.Context(), ""))
			maps.Copy(now, old)
		}, []string{" ec2net marks # the chain ec2net-docker should not be there", "eth1 ec2net marks # the chain ec2net-eth1 should not be there"}},
		"no longer wanted": {func(m *machine, _ table) { m.forward(t, false) },
			[]string{" ec2net marks # the chain ec2net-docker should not be there", "eth1 ec2net marks # the chain ec2net-eth1 should not be there"}},
	} {
		t.Run(what, func(t *testing.T) {
			withENIs(t, func(m *machine) {
				m.forward(t, true)
				check(t, m.KeepMarks(t.Context(), ""))
				whole := m.firewall.text(mangle.NFT)
				c.disturb(m, m.firewall.tables[mangle.NFT])
				before, ran, logged := m.firewall.text(mangle.NFT), len(m.ran), len(m.log)
				s := m.statusNow(t, "")
				var got []string
				for _, line := range s.Commands {
					of := ""
					for _, e := range s.ENIs {
						if slices.Contains(e.Commands, line) {
							of = e.Name
						}
					}
					got = append(got, of+" "+line)
				}
				same(t, "commands", got, c.want)
				same(t, "after the look", m.firewall.text(mangle.NFT), before)
				if len(m.ran) != ran || len(m.log) != logged {
					t.Errorf("a look ran %v and logged %q", m.ran[ran:], m.log[logged:])
				}
				if s.Differs != (c.want != nil) {
					t.Errorf("differs: %v", s.Differs)
				}
				check(t, m.MendMarks(t.Context()))
				if !strings.Contains(what, "back end") && !strings.Contains(what, "wanted") {
					same(t, "mended", m.firewall.text(mangle.NFT), whole)
				}
				if s := m.statusNow(t, ""); s.Differs {
					t.Errorf("mended: %q", s.Commands)
				}
			})
		})
	}
}

// If iptables fails, Status returns an error, and what it knows of the rest.
func TestStatusOfMarksUnread(t *testing.T) {
	withENIs(t, func(m *machine) {
		m.forward(t, true)
		m.Output = func(context.Context, string, ...string) ([]byte, error) { return nil, exited(4) }
		s, err := m.Status(t.Context(), "")
		if err == nil || s == nil || !strings.HasPrefix(s.states(), twoOK) {
			t.Errorf("%v, %+v", err, s)
		}
	})
}

// An ENI goes down and comes up, by ifdown and ifup alone: so do its marks.
func TestMarksByHand(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		whole := m.firewall.text(mangle.NFT)
		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, m.netns.LinkSetDown(l))
		check(t, m.KeepMarks(t.Context(), ""))
		if text := strings.Join(m.firewall.text(mangle.NFT), "\n"); strings.Contains(text, "ec2net-eth1") {
			t.Errorf("down:\n%s", text)
		}
		check(t, m.netns.LinkSetUp(l))
		check(t, m.KeepMarks(t.Context(), "eth1"))
		same(t, "up again", m.firewall.text(mangle.NFT), whole)
	})
}

// A chain that an administrator has taken over stays, one of an interface that is gone
// does not.
func TestMarksOfOthers(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.forward(t, true)
		ready(t, m)
		table := m.firewall.tables[mangle.NFT]
		table["ec2net-eth9"] = []string{"-j RETURN"}
		table["PREROUTING"] = append(table["PREROUTING"], "-i eth9 -j ec2net-eth9", "-i eth9 -j ec2net-eth9")
		m.Unmanaged = Patterns{"eth1"}
		check(t, m.KeepMarks(t.Context(), ""))
		text := strings.Join(m.firewall.text(mangle.NFT), "\n")
		if strings.Contains(text, "eth9") || !strings.Contains(text, "PREROUTING -i eth1 -j ec2net-eth1") {
			t.Errorf("%s", text)
		}
	})
}
