package hooks

import (
	"errors"
	"fmt"

	"ec2net/plan"
)

// apply makes all changes, also after one has failed. Only if an ENI could not be put into
// the group, it adds no group rules, which need every ENI there. again says that apply has
// removed something: then converge has to look at the outcome.
func (h *Host) apply(l *look, changes []plan.Change, n news) (again bool, failed error) {
	noticed, ungrouped := n.notice == "", false
	var done []plan.Change
	var errs someErrors
	log := routeLog{Log: h.Log}
	var left undone
	for _, c := range changes {
		if _, rule := c.(plan.AddRule); rule && c.Of() == "" && ungrouped {
			continue
		}
		if !noticed && c.Of() == n.name {
			h.Log.Info(n.name, "%s", n.notice)
			noticed = true
		}
		iface := c.Of()
		if iface == "" {
			iface = n.name
		}
		if err := h.Kernel.Apply(c); err != nil {
			_, group := c.(plan.SetGroup)
			ungrouped = ungrouped || group
			err = fmt.Errorf("%s: %w", c, err)
			if iface != n.name && n.name != "" {
				log.about(c).Warn(iface, "%v", err)
				continue
			}
			errs.add(err)
			continue
		}
		done = append(done, c)
		again = again || c.Removes()
		log.about(c).Info(iface, "%s (%s)", c, n.reason(c))
		left.add(iface, c, n.contests.made(c))
	}
	n.contests.warn(h.Log, left)
	if log.more > 0 {
		h.Log.Info(n.name, "%d more lines about routes (%s)", log.more, n.why)
	}
	l.State.Apply(done...)
	return again, errs.join()
}

// reason returns why ec2net makes a change, for the log.
func (n news) reason(c plan.Change) string {
	why := n.why
	if n.name != "" && c.Of() != "" && c.Of() != n.name {
		why += " of " + n.name
	}
	if _, ok := c.(plan.SetGroup); ok {
		return "the group of all ENIs; " + why
	}
	return why
}

// maxLines bounds the lines about routes that one round of converge logs, and the errors
// that apply returns: a router may change thousands of routes at once.
const maxLines = 100

// routeLog is the log, with maxLines lines about routes at most.
type routeLog struct {
	Log
	lines, more int
}

// about returns the log for a line about a change.
func (l *routeLog) about(c plan.Change) Log {
	switch c.(type) {
	case plan.AddRoute, plan.DelRoute:
		if l.lines++; l.lines > maxLines {
			l.more++
			return silence{}
		}
	}
	return l.Log
}

// silence is a log that drops all lines.
type silence struct{}

// Info drops a line.
func (silence) Info(string, string, ...any) {}

// Warn drops a line.
func (silence) Warn(string, string, ...any) {}

// someErrors are the first maxLines errors, and how many more there are.
type someErrors struct {
	first []error
	more  int
}

func (e *someErrors) add(err error) {
	if len(e.first) == maxLines {
		e.more++
		return
	}
	e.first = append(e.first, err)
}

func (e *someErrors) join() error {
	if e.more > 0 {
		e.first = append(e.first, fmt.Errorf("%d more changes failed", e.more))
	}
	return errors.Join(e.first...)
}
