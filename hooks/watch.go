package hooks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"ec2net/facts"
	"ec2net/kernel"
	"ec2net/plan"
)

const (
	// gather is how long Watch waits for the rest of a burst of changes.
	gather = 100 * time.Millisecond
	// rest is how many times as long as a look took Watch does nothing after it: on a
	// machine on which everything changes all the time it takes a fifth of one CPU.
	rest = 4
	// convergeLimit bounds the wait for another ec2net that has the kernel's lock.
	convergeLimit = time.Minute
)

// Watch keeps the machine what it should be, until ctx ends. It converges whenever
// the kernel's network changes, and has an event of udev's happen again that did not
// lead to the end. Every h.Every it asks IMDS for each ENI that is up; with 0 it never
// does. current returns the machine with the settings and templates of now.
func Watch(ctx context.Context, current func() *Host) error {
	w := &watcher{current: current, contests: make(contests), said: &said{at: make(map[string]time.Time)},
		failure: backoff{first: time.Second, last: time.Minute}, seeks: make(map[string]*backoff), lately: current().lately(), marks: newMarker(),
		refreshed: make(chan []facts.MAC, 1)}
	w.renew()
	w.due = time.Now().Add(rand.N(w.Every + 1)) // a thousand machines may start at once
	unlock := w.tellWatching(ctx)
	defer unlock()
	changed, err := w.Kernel.Watch(ctx)
	if err != nil {
		return err
	}
	for {
		w.refresh(ctx)
		began := time.Now()
		w.converge(ctx)
		w.keepMarks(ctx)
		w.lately.write(w.Host)
		if ended, err := w.wait(ctx, changed, max(gather, rest*time.Since(began))); ended {
			return err
		}
		w.renew()
	}
}

// refresh asks IMDS, in the background, if that is due.
func (w *watcher) refresh(ctx context.Context) {
	if !w.asking && w.Every > 0 && !time.Now().Before(w.due) {
		w.asking = true
		go func(h *Host) { w.refreshed <- h.refreshForWatch(ctx) }(w.Host)
	}
}

// wait waits until there is something to do, and then for the rest of a burst. It reports
// whether Watch has ended, and why.
func (w *watcher) wait(ctx context.Context, changed *kernel.Watch, burst time.Duration) (ended bool, err error) {
	due := w.due
	if w.asking || w.Every == 0 {
		due = time.Time{}
	}
	select {
	case <-ctx.Done():
		return true, nil
	case <-at(due, w.failure.until, w.contests.next(), w.nextSeek(), w.marks.next()):
		return false, nil
	case <-w.marks.done:
		return false, nil
	case w.listed = <-w.refreshed:
		w.asking, w.due = false, time.Now().Add(jittered(w.Every))
		w.marks.look(0)
		return false, nil
	case <-changed.Firewall:
		w.marks.look(gather)
	case _, open := <-changed.C:
		if !open {
			return true, changed.Err()
		}
	}
	if !sleep(ctx, burst) {
		return true, nil
	}
	select {
	case <-changed.C:
	default:
	}
	return false, nil
}

// refreshForWatch asks IMDS for each ENI that is up. It returns the MACs of the
// instance's ENIs if one may be attached of which nothing is known.
func (h *Host) refreshForWatch(ctx context.Context) []facts.MAC {
	err := h.refreshAll(ctx)
	var macs []facts.MAC
	if l, failed := h.look(news{}); err == nil && failed == nil && l.hasUnknown() && h.checkWay(l) == nil {
		limited, cancel := context.WithTimeout(ctx, oneIMDS)
		defer cancel()
		macs, err = h.Source.MACs(limited)
	}
	if err != nil && ctx.Err() == nil {
		h.Log.Warn("", "%v (watch)", err)
	}
	return macs
}

// hasUnknown reports whether there is a device that may be an ENI of which nothing is
// known.
func (l *look) hasUnknown() bool {
	return slices.ContainsFunc(plan.ENIsAmong(l.State.Links, devices(l.State)), func(link plan.Link) bool {
		_, known := l.Of(link.Name)
		return !known && link.Master == 0
	})
}

// watcher is what Watch keeps between two looks: nothing of what the machine is.
type watcher struct {
	*Host
	current  func() *Host
	contests contests
	said     *said
	failure  backoff
	// seeks are the interfaces that are unfinished, by name.
	seeks map[string]*backoff
	// due is when to ask IMDS next, asking whether that is being done; refreshed has what
	// it listed.
	due       time.Time
	asking    bool
	refreshed chan []facts.MAC
	// listed are the ENIs that IMDS has listed.
	listed []facts.MAC
	// waits says that the primary had no address at the last look.
	waits  bool
	lately *lately
	marks  *marker
}

// renew takes the settings and templates of now.
func (w *watcher) renew() {
	h := *w.current()
	h.Log = sparing{keeping{h.Log, w.lately}, w.said}
	w.Host = &h
}

// converge makes the machine what it should be.
func (w *watcher) converge(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, convergeLimit)
	defer cancel()
	l, err := w.Host.converge(limited, news{why: "watch", contests: w.contests})
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		w.Log.Warn("", "%v (watch)", err)
		w.failure.again()
	default:
		w.failure.reset()
	}
	if l != nil {
		w.marks.saw(l.markable(w.Host))
		w.seek(ctx, l)
	}
}

// seek has the events of udev's happen again of what is unfinished: if nobody is at work
// on it, first after five seconds, then less and less often; at once when the primary has
// got an address, since hotplug does nothing before.
func (w *watcher) seek(ctx context.Context, l *look) {
	waited := w.waits
	if w.waits = !l.PrimaryUp(); w.waits {
		clear(w.seeks)
		return
	}
	seeks := make(map[string]*backoff)
	for _, u := range w.unfinished(ctx, l) {
		b, before := w.seeks[u.name]
		if !before {
			b = &backoff{first: 5 * time.Second, last: time.Hour}
			if b.again(); waited {
				b.until = time.Now()
			}
		}
		seeks[u.name] = b
		if !b.due() {
			continue
		}
		unlock, held, err := w.tryLock(u.name)
		if held || err != nil {
			b.until = time.Now().Add(time.Second)
			continue
		}
		unlock()
		if err := w.finishOff(u); err != nil {
			w.Log.Warn(u.name, "%v (watch)", err)
		}
		b.again()
	}
	w.seeks = seeks
}

// nextSeek is when the first of what is unfinished is due; the zero time if nothing is.
func (w *watcher) nextSeek() (first time.Time) {
	for _, b := range w.seeks {
		if first.IsZero() || b.until.Before(first) {
			first = b.until
		}
	}
	return first
}

// unfinished returns what udev's events have not led to the end for. What was brought
// up and is down now, somebody has set down who knows why.
func (w *watcher) unfinished(ctx context.Context, l *look) []unfinished {
	macs := append(l.knownMACs(), w.listed...)
	found, err := w.attached(l, macs, nil)
	if err != nil {
		w.Log.Warn("", "%v (watch)", err)
	}
	found = slices.DeleteFunc(found, func(u unfinished) bool {
		k, _ := l.Of(u.name)
		one := *l
		one.name = u.name
		one.link, _ = l.State.LinkNamed(u.name)
		return k.Note.Of(one.link) || l.down[u.name].Of(one.link) || w.checkOwner(ctx, &one) != nil
	})
	return append(found, l.gone()...)
}

// contests are the changes that another program undoes, by their text.
type contests map[string]*contest

type contest struct {
	count int
	last  time.Time
	left  backoff
}

const (
	// maxContest is how many times a change is made before it is left to the other
	// program; one of them is forgotten every contestDrip.
	maxContest  = 12
	contestDrip = 5 * time.Second
)

func contestOf(c plan.Change) string { return c.Of() + " " + c.String() }

// without drops the changes that are left to the other program for now.
func (all contests) without(changes []plan.Change) []plan.Change {
	return slices.DeleteFunc(changes, func(c plan.Change) bool {
		one := all[contestOf(c)]
		return one != nil && !one.left.due()
	})
}

// made notes a change that was made. It returns for how long it is left alone now.
func (all contests) made(c plan.Change) time.Duration {
	if all == nil {
		return 0
	}
	now := time.Now()
	one := all[contestOf(c)]
	if one == nil {
		all.forget(now)
		one = newContest()
		all[contestOf(c)] = one
	}
	return one.made(now)
}

func newContest() *contest {
	return &contest{left: backoff{first: time.Minute, last: time.Hour}}
}

// made notes that the change was made. It returns for how long it is left alone now.
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

// next is when the first change is tried again that was left; the zero time if none was.
func (all contests) next() (first time.Time) {
	for _, one := range all {
		if !one.left.due() && (first.IsZero() || one.left.until.Before(first)) {
			first = one.left.until
		}
	}
	return first
}

// forget drops what was long ago.
func (all contests) forget(now time.Time) {
	for text, one := range all {
		if now.Sub(one.last) > 2*max(one.left.wait, time.Minute) {
			delete(all, text)
		}
	}
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

// jittered is a duration, give or take a tenth.
func jittered(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// at returns a channel that has a value at the first of some times, of which the zero
// time is never.
func at(times ...time.Time) <-chan time.Time {
	times = slices.DeleteFunc(times, time.Time.IsZero)
	if len(times) == 0 {
		return nil
	}
	return time.After(time.Until(slices.MinFunc(times, time.Time.Compare)))
}

// sleep waits. It reports whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
