package hooks

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// marker is what Watch knows of the marks: when to look at them next. A look starts a
// process, so there is none without a reason: an event of nftables, a refresh, another
// set of ENIs, another forwarding. It looks beside Watch's own loop, since iptables may
// wait for its lock.
type marker struct {
	mu      sync.Mutex
	due     time.Time // zero: when there is a reason
	busy    bool
	event   bool   // nftables has told of a change since the last look
	seen    string // what the marks depended on, at the last look of Watch
	failure backoff
	contest *contest
	done    chan struct{} // has a token when a look has ended
}

func newMarker() *marker {
	return &marker{seen: "nothing yet", done: make(chan struct{}, 1), failure: backoff{first: time.Second, last: time.Minute}, contest: newContest()}
}

// markable says what the marks depend on: which ENIs are up, and whether there are to be
// marks.
func (l *look) markable(h *Host) string {
	if !h.wantedMarks(l) {
		return ""
	}
	text := ""
	for _, e := range l.Marked("") {
		link, _ := l.State.LinkNamed(e.Name)
		text += fmt.Sprint(e.Name, e.Number, e.MarkMask, link.Index, link.Up, " ")
	}
	return text
}

// saw asks for a look if the marks depend on something else now.
func (m *marker) saw(what string) {
	if what != m.seen {
		m.seen = what
		m.look(0)
	}
}

// look asks for a look after a while.
func (m *marker) look(after time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := time.Now().Add(after); m.due.IsZero() || at.Before(m.due) {
		m.due = at
	}
}

// changed asks for a look soon after an event of nftables.
func (m *marker) changed() {
	m.mu.Lock()
	m.event = true
	m.mu.Unlock()
	m.look(gather)
}

// next is when to look, not before the marks are no longer left to another program; the zero
// time if there is no reason, or a look is going on.
func (m *marker) next() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.busy || m.due.IsZero():
		return time.Time{}
	case m.due.Before(m.contest.left.until):
		return m.contest.left.until
	}
	return m.due
}

// keepMarks looks at the marks, in the background, if that is due.
func (w *watcher) keepMarks(ctx context.Context) {
	m := w.marks
	if due := m.next(); due.IsZero() || time.Now().Before(due) {
		return
	}
	m.mu.Lock()
	n := marking{restored: m.event}
	m.busy, m.due, m.event = true, time.Time{}, false
	m.mu.Unlock()
	go func(h *Host) {
		missed, err := h.keepMarks(ctx, n)
		if ctx.Err() == nil {
			m.ended(h, n, missed, err)
		}
		select {
		case m.done <- struct{}{}:
		default:
		}
	}(w.Host)
}

// ended notes how a look has ended, and when to look again: after a failure, for the same
// reason.
func (m *marker) ended(h *Host, n marking, missed bool, err error) {
	m.mu.Lock()
	m.busy = false
	again := time.Duration(0)
	if err != nil {
		m.failure.again()
		again, m.event = m.failure.wait, m.event || n.restored
	} else {
		m.failure.reset()
	}
	var left time.Duration
	if missed {
		left = m.contest.made(time.Now())
	}
	m.mu.Unlock()
	if err != nil {
		h.Log.Warn("", "%v (watch)", err)
	}
	if left > 0 {
		h.Log.Warn("", "another program removes the marks again and again: leaving them alone for %v", left)
		again = left
	}
	if again > 0 {
		m.look(again)
	}
}
