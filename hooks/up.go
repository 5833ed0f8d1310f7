package hooks

import (
	"context"

	"ec2net/facts"
)

// Up is Add for a person. If the ENI was up already, Up also logs which changes need
// ec2ifdown and ec2ifup, or that there was nothing to change.
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

// inspect checks what ifup has made for a live ENI: the stanza that brought it up, its
// DHCP client.
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
	const again = "\"ec2ifdown %s\" and \"ec2ifup %s\""
	by := h.stack(l.stackOf(name))
	health, err := by.Health(l.State, l.link)
	if err != nil {
		return err
	}
	if health.Changed {
		h.Log.Warn(name, "%s has changed since it came up: "+again+" apply it, unless only routes were added", by.Path(name), name, name)
	}
	if health.NoClient {
		h.Log.Warn(name, "no DHCP client runs for it: "+again+" start one", name, name)
	}
	return nil
}
