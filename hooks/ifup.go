package hooks

import (
	"context"
	"errors"
	"strings"
	"time"

	"ec2net/facts"
	"ec2net/render"
)

// undoLimit bounds undo, which waits for no lease.
const undoLimit = 100 * time.Second

// done is what the log says after ifup and takeDown.
var done = map[render.Stack]struct{ up, down string }{
	render.Ifupdown: {"ifup done", "ifdown done"},
	render.Networkd: {"is up by systemd-networkd", "is set down"},
}

// ifup brings an ENI up, or leaves nothing behind. An ifup(8) that failed may have
// started a DHCP client, and keeps no state: only ifdown --force ends the client. An ENI
// that was up stays up.
func (h *Host) ifup(ctx context.Context, l *look, e facts.ENI) error {
	err := h.stack(l.kind).Up(ctx, l.link, l.isUp())
	switch {
	case l.isUp():
		return err
	case err != nil:
		return errors.Join(err, h.undo(ctx, e.Name))
	}
	links, err := h.Kernel.Links()
	if err != nil {
		return err
	}
	now := *l
	now.State.Links = links
	now.link, _ = now.State.LinkNamed(e.Name)
	if err := now.stillThere(news{name: e.Name, device: &l.link}); err != nil {
		return err // the next event takes down what ifup has brought up
	}
	if !now.link.Up {
		h.Log.Warn(e.Name, "is down after ifup")
	}
	h.Log.Info(e.Name, "%s: %s, table %d", done[l.kind].up, e.ID, e.Number)
	h.tellIPv6(e)
	return nil
}

// tellIPv6 logs that an ENI has IPv6 addresses, which ec2net does not configure.
func (h *Host) tellIPv6(e facts.ENI) {
	if text := withIPv6(e); text != "" {
		h.Log.Info(e.Name, "%s", text)
	}
}

// withIPv6 says which IPv6 addresses of an ENI ec2net does not configure; empty if it has
// none, or is the primary, whose IPv6 is its own DHCP client's.
func withIPv6(e facts.ENI) string {
	var has []string
	for _, a := range e.IPv6 {
		has = append(has, a.String())
	}
	for _, p := range e.IPv6Prefixes {
		has = append(has, p.String())
	}
	if len(has) == 0 || e.Primary {
		return ""
	}
	return "EC2 has given it IPv6, which ec2net does not configure yet: " + strings.Join(has, " ")
}

// undo takes down what ifup has begun, even if ctx has ended.
func (h *Host) undo(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	l, err := h.look(news{name: name})
	if err != nil {
		return err
	}
	return h.takeDown(ctx, l)
}
