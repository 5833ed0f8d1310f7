package hooks

import (
	"context"
	"errors"
	"strings"

	"ec2net/facts"
	"ec2net/render"
)

// Up is Add for a person. If the ENI was up already, Up also mends its marks, and logs
// which changes need ec2ifdown and ec2ifup, or that there was nothing to change.
func (h *Host) Up(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	l, err := h.look(news{name: name})
	if err != nil {
		return err
	}
	told := &counting{Log: h.Log}
	host := *h
	host.Log = told
	if err := host.Add(ctx, name); err != nil || !l.isUp() {
		return err
	}
	if err := host.inspect(ctx, name); err != nil {
		return err
	}
	if told.lines == 0 {
		h.Log.Info(name, "is up, nothing to change")
	}
	return nil
}

// counting counts the lines of a log.
type counting struct {
	Log
	lines int
}

func (c *counting) Info(iface, format string, args ...any) {
	c.lines++
	c.Log.Info(iface, format, args...)
}

func (c *counting) Warn(iface, format string, args ...any) {
	c.lines++
	c.Log.Warn(iface, format, args...)
}

// inspect checks what ifup has made for a live ENI: its marks, the stanza that brought it
// up, its DHCP client.
func (h *Host) inspect(ctx context.Context, name string) error {
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := h.look(news{name: name})
	if err != nil || !l.isUp() {
		return err
	}
	marks := h.mendMarks(ctx, l)
	const again = "\"ec2ifdown %s\" and \"ec2ifup %s\""
	changed, err := h.stack().Changed(name)
	if err != nil {
		return errors.Join(marks, err)
	} else if changed {
		h.Log.Warn(name, "its cfg file has changed since it came up: "+again+" apply it", name, name)
	}
	alive, err := h.stack().ClientAlive(name)
	if err != nil {
		return errors.Join(marks, err)
	} else if !alive {
		h.Log.Warn(name, "no DHCP client runs for it: "+again+" start one", name, name)
	}
	return marks
}

// mendMarks makes the marks of an ENI again if some are missing: flushing or loading a
// firewall removes them.
func (h *Host) mendMarks(ctx context.Context, l *look) error {
	k, _ := l.Of(l.name)
	e, known := k.FactsOf(l.link)
	if !known || !e.Routed || k.Left != "" {
		return nil
	}
	path, err := render.Path("iptables", l.name)
	if err != nil {
		return err
	}
	fragment, err := h.Tree.Read(path)
	if err != nil || fragment == nil {
		return err
	}
	whole, err := h.hasAll(ctx, string(fragment))
	if err != nil {
		return err
	}
	made, err := mangle{h, jumpOf(e)}.fill(ctx, path)
	if err == nil && (made || !whole) {
		h.Log.Info(l.name, "marks were missing: restored them")
	}
	return err
}

// hasAll reports whether iptables has every rule that a fragment appends.
func (h *Host) hasAll(ctx context.Context, fragment string) (bool, error) {
	table := ""
	for line := range strings.Lines(fragment) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		rule, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		args := append([]string{"-w", lockWait, "-t", table, "-C"}, strings.Fields(rule)...)
		if there, err := h.has(ctx, args...); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}
