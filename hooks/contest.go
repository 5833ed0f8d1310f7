package hooks

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"ec2net/plan"
)

// contests are the changes that another program undoes.
type contests struct {
	by     map[string]*contest // by the text of the change
	warned time.Time           // no other warning is needed until then
}

type contest struct {
	count int
	last  time.Time
	left  backoff
}

const (
	// maxContest is how many times watch makes a change before it leaves it to the other
	// program. Every contestDrip it forgets one of these times. Each costs 3 ms of CPU
	// (measured): a program that undoes the change every five seconds costs less than a
	// thousandth of a CPU, and may go on. If a program undoes it at once, watch gives up
	// after two seconds. It must not give up at something that passes: "netplan apply" takes
	// the rules away once for each link, and cloud-init's hotplug applies seven times, five
	// seconds apart.
	maxContest  = 12
	contestDrip = 5 * time.Second
)

func newContest() *contest {
	return &contest{left: backoff{first: time.Minute, last: time.Hour}}
}

func contestOf(c plan.Change) string { return c.Of() + " " + c.String() }

// without drops the changes that watch leaves for now. If it leaves the group of an ENI, it
// adds no group rules either, which need every ENI in the group.
func (all *contests) without(changes []plan.Change) []plan.Change {
	if all == nil || len(all.by) == 0 {
		return changes
	}
	isLeft := func(c plan.Change) bool {
		one := all.by[contestOf(c)]
		return one != nil && !one.left.due()
	}
	ungrouped := slices.ContainsFunc(changes, func(c plan.Change) bool {
		_, group := c.(plan.SetGroup)
		return group && isLeft(c)
	})
	return slices.DeleteFunc(changes, func(c plan.Change) bool {
		_, rule := c.(plan.AddRule)
		return isLeft(c) || ungrouped && rule && c.Of() == ""
	})
}

// made notes a change that was made. It returns for how long watch leaves the change now; 0
// if it does not. A change that adds something also ends the contest about its removal: if a
// route of main flaps, watch adds and deletes the copy in turn.
func (all *contests) made(c plan.Change) time.Duration {
	if all == nil {
		return 0
	}
	if undo := undoing(c); undo != nil {
		delete(all.by, contestOf(undo))
	}
	now := time.Now()
	one := all.by[contestOf(c)]
	if one == nil {
		if n := len(all.by); n&(n-1) == 0 { // at powers of two: a round may make thousands
			all.forget(now)
		}
		one = newContest()
		all.by[contestOf(c)] = one
	}
	return one.made(now)
}

// undoing returns the change that removes what a change adds; nil for other changes.
func undoing(c plan.Change) plan.Change {
	switch c := c.(type) {
	case plan.AddRoute:
		return plan.DelRoute{ENI: c.ENI, Link: c.Link, Route: c.Route}
	case plan.AddRule:
		return plan.DelRule{ENI: c.ENI, Rule: plan.Rule{Rule: c.Rule}}
	case plan.AddAddr:
		return plan.DelAddr(c)
	}
	return nil
}

// forget drops what was long ago.
func (all *contests) forget(now time.Time) {
	for text, one := range all.by {
		if now.Sub(one.last) > 2*max(one.left.wait, time.Minute) {
			delete(all.by, text)
		}
	}
}

// made notes that the change was made. It returns for how long watch leaves it now; 0 if it
// does not.
func (one *contest) made(now time.Time) time.Duration {
	if now.Sub(one.last) > 2*max(one.left.wait, time.Minute) {
		one.left.reset()
	}
	one.count = max(0, one.count-int(now.Sub(one.last)/contestDrip)) + 1
	one.last = now
	if one.count < maxContest {
		return 0
	}
	one.left.again()
	return one.left.wait
}

// undone are the changes of a round that are left to another program from now on.
type undone struct {
	iface string
	first plan.Change
	more  int
	wait  time.Duration
}

// add notes for how long watch leaves a change; 0 if it does not.
func (u *undone) add(iface string, c plan.Change, wait time.Duration) {
	switch {
	case wait == 0:
		return
	case u.first == nil:
		u.iface, u.first = iface, c
	default:
		u.more++
	}
	u.wait = max(u.wait, wait)
}

// warn logs which changes watch leaves. One warning is enough until it tries them again: a
// program that flushes the rules undoes many changes, some of them a moment later.
func (all *contests) warn(log Log, u undone) {
	if u.first == nil {
		return
	}
	say, what, it := log.Info, "this", "it"
	if now := time.Now(); !now.Before(all.warned) {
		say, all.warned = log.Warn, now.Add(u.wait)
	}
	if u.more > 0 {
		what, it = fmt.Sprintf("this and %d more changes", u.more), "them"
	}
	say(u.iface, "another program undoes %s again and again: leaving %s alone for %v: %s", what, it, u.wait, u.first)
}

// next is when watch tries the first of the changes again that it leaves; the zero time if
// it leaves none.
func (all *contests) next() (first time.Time) {
	for _, one := range all.by {
		if !one.left.due() && (first.IsZero() || one.left.until.Before(first)) {
			first = one.left.until
		}
	}
	return first
}

// backoff is a wait that doubles, from first to last.
type backoff struct {
	first, last, wait time.Duration
	until             time.Time
}

func (b *backoff) again() {
	b.wait = min(max(2*b.wait, b.first), b.last)
	b.until = time.Now().Add(b.wait)
}

func (b *backoff) reset() { b.wait, b.until = 0, time.Time{} }

// due reports whether the wait is over.
func (b *backoff) due() bool { return !time.Now().Before(b.until) }

// sparing is a log that says a warning once an hour.
type sparing struct {
	Log
	said *said
}

type said struct {
	sync.Mutex
	at map[string]time.Time
}

// Warn logs what needs a person, unless it has been said.
func (s sparing) Warn(iface, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.said.Lock()
	defer s.said.Unlock()
	if last, ok := s.said.at[iface+" "+text]; ok && time.Since(last) < time.Hour {
		return
	}
	if len(s.said.at) >= 1000 {
		clear(s.said.at)
	}
	s.said.at[iface+" "+text] = time.Now()
	s.Log.Warn(iface, "%s", text)
}
