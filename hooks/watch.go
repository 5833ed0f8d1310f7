package hooks

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"ec2net/facts"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
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
	w := &watcher{current: current, contests: &contests{by: make(map[string]*contest)}, said: &said{at: make(map[string]time.Time)},
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
	due := w.Every > 0 && !time.Now().Before(w.due) || w.leased
	if !w.asking && due {
		w.asking, w.leased = true, false
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
		w.marks.changed()
	case <-changed.Leases:
		w.leased = w.Every == 0 && w.kind == render.Networkd
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
	if l, failed := h.look(news{}); err == nil && failed == nil {
		macs, err = h.unknownMACs(ctx, l)
	}
	if err != nil && ctx.Err() == nil {
		h.Log.Warn("", "%v (watch)", err)
	}
	return macs
}

// unknownMACs returns the MACs of the instance's ENIs if one may be attached of which nothing
// is known, and nothing stands between this machine and IMDS.
func (h *Host) unknownMACs(ctx context.Context, l *look) ([]facts.MAC, error) {
	if !l.hasUnknown() || h.checkWay(l) != nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, oneIMDS)
	defer cancel()
	return h.Source.MACs(ctx)
}

// hasUnknown reports whether there is a device that may be an ENI of which nothing is
// known, though something may be of another device that had its name.
func (l *look) hasUnknown() bool {
	return slices.ContainsFunc(plan.ENIsAmong(l.State.Links, devices(l.State)), func(link plan.Link) bool {
		k, _ := l.Of(link.Name)
		_, known := k.FactsOf(link)
		return !known && !k.Note.Of(link) && !k.Lease.Of(link) && !l.leftAlone(link)
	})
}

// watcher is what Watch keeps between two looks: nothing of what the machine is.
type watcher struct {
	*Host
	current  func() *Host
	contests *contests
	said     *said
	failure  backoff
	// seeks are the interfaces that are unfinished, by name.
	seeks map[string]*backoff
	// due is when to ask IMDS next, asking whether that is being done; refreshed has what
	// it listed.
	due       time.Time
	asking    bool
	refreshed chan []facts.MAC
	// kind is the stack at the last look. leased says that systemd-networkd, which has no hook,
	// has renewed a lease, and that no refresh comes anyway.
	kind   render.Stack
	leased bool
	// listed are the ENIs that IMDS has listed.
	listed []facts.MAC
	// waits says that the primary had no address at the last look.
	waits  bool
	lately *lately
	marks  *marker
}

// renew takes the settings and templates of now. If EC2NET_REFRESH has become shorter, the
// next refresh comes sooner.
func (w *watcher) renew() {
	h := *w.current()
	h.Log = sparing{keeping{h.Log, w.lately}, w.said}
	if w.Host != nil && h.Every < w.Every {
		w.due = time.Now().Add(jittered(h.Every))
	}
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
		w.kind = l.kind
		w.marks.saw(l.markable(w.Host))
		w.seek(ctx, l)
	}
}

// seek repeats the events of udev for what is unfinished, if nobody is at work on it: first
// after five seconds, then less and less often; at once when the primary has got an address,
// since hotplug does nothing before.
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

// unfinished returns what the events of udev have left unfinished, but not what was brought
// up and is down now: somebody has set it down on purpose.
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
		// Taken down by a person, it may have been brought up by ifup since.
		down := k.Down.Of(one.link) && !k.Lease.Held(one.link)
		if k.Note.Of(one.link) && !u.lost || down {
			return true
		}
		err := w.checkOwner(ctx, &one)
		return err != nil && !undecided(err)
	})
	return append(found, l.gone()...)
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
