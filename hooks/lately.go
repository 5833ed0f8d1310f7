package hooks

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WatchStatus says what watch has done lately.
type WatchStatus struct {
	// Runs is nil if that is not known: only root may ask.
	Runs *bool `json:"runs,omitempty"`
	// Lines are the last lines that watch has logged since boot, the oldest first.
	Lines []WatchLine `json:"lines"`
}

// WatchLine is a line of watch's log.
type WatchLine struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// watchLog has the last lines of watch's log, each behind its time.
var watchLog = path.Join(runDir, "watch.log")

const (
	// maxLately is how many lines watchLog has, maxLine how long one may be.
	maxLately = 20
	maxLine   = 300
	// watchLock is held by a watch that runs, shared with others.
	watchLock = "watch"
)

// lately is the last lines of watch's log. It is written when there are new ones, so that
// a watch that changes nothing writes nothing.
type lately struct {
	mu        sync.Mutex
	lines     []string
	unwritten bool
}

// lately returns the lines that an earlier watch has left.
func (h *Host) lately() *lately {
	text, _ := h.Tree.Read(watchLog) // what cannot be read is written anew
	return &lately{lines: slices.Collect(strings.Lines(string(text)))}
}

func (l *lately) add(iface, text string) {
	line := fmt.Sprintf("%s %s", time.Now().UTC().Format(time.RFC3339), oneLine(iface, text))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line+"\n")
	l.lines = slices.Delete(l.lines, 0, max(0, len(l.lines)-maxLately))
	l.unwritten = true
}

// oneLine is a line as the log has it, with joined errors side by side.
func oneLine(iface, text string) string {
	if iface != "" {
		text = iface + ": " + text
	}
	text = strings.ReplaceAll(text, "\n", "; ")
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "..."
	}
	return text
}

// write writes the lines, if there are new ones. If that fails, the next line tries
// again.
func (l *lately) write(h *Host) {
	l.mu.Lock()
	text, unwritten := strings.Join(l.lines, ""), l.unwritten
	l.unwritten = false
	l.mu.Unlock()
	if !unwritten {
		return
	}
	if _, err := h.Tree.Write(watchLog, []byte(text)); err != nil {
		h.Log.Warn("", "%v (watch)", err)
	}
}

// keeping is a log whose lines are also kept.
type keeping struct {
	Log
	in *lately
}

// Info logs what ec2net changed.
func (k keeping) Info(iface, format string, args ...any) {
	k.Log.Info(iface, format, args...)
	k.in.add(iface, fmt.Sprintf(format, args...))
}

// Warn logs what needs a person.
func (k keeping) Warn(iface, format string, args ...any) {
	k.Log.Warn(iface, format, args...)
	k.in.add(iface, "warning: "+fmt.Sprintf(format, args...))
}

// tellWatching lets watchStatus see that watch runs.
func (h *Host) tellWatching(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	unlock, err := h.lockAs(ctx, watchLock, unix.LOCK_SH)
	if err != nil {
		h.Log.Warn("", "%v (watch)", err)
		return func() {}
	}
	return unlock
}

// watchStatus returns what watch has done lately.
func (h *Host) watchStatus() (WatchStatus, error) {
	s := WatchStatus{Lines: []WatchLine{}}
	there, err := h.lockThere(watchLock)
	if err != nil {
		return s, err
	}
	runs := false
	if !there {
		s.Runs = &runs
	} else if unlock, held, err := h.tryLock(watchLock); err == nil {
		if !held {
			unlock()
		}
		s.Runs = &held
	}
	text, err := h.Tree.Read(watchLog)
	for line := range strings.Lines(string(text)) {
		at, said, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			s.Lines = append(s.Lines, WatchLine{t, said})
		}
	}
	return s, err
}
