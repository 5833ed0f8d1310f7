package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/plan"
	"ec2net/render"
)

// maxRounds bounds converge: RTM_DELRULE matches loosely, so deleting one rule can
// delete another; other programs change rules too.
const maxRounds = 4

// converge looks and changes the difference until nothing differs, and remembers the
// news. Nothing else changes groups, addresses, routes and rules. It holds the lock of
// the kernel, and returns its last look.
//
// What goes wrong with ENIs other than the event's, it only logs.
func (h *Host) converge(ctx context.Context, n news) (*look, error) {
	unlock, err := h.lock(ctx, "kernel")
	if err != nil {
		return nil, err
	}
	defer unlock()
	for round := 1; ; round++ {
		l, err := h.look(n)
		if err != nil {
			return l, err
		}
		n.rendered = l.rendered
		h.rememberPods(l)
		if err := h.mayChange(l, n, round); err != nil {
			return l, err
		}
		changes, want, broken := h.changes(ctx, l)
		if broken != nil && round == 1 {
			h.Log.Warn(n.name, "using the ip rules that were rendered last (%s)", n.why)
		}
		changes = n.contests.without(changes)
		if len(changes) > 0 {
			h.warnForeign(l, want)
		}
		h.tellReleased(l, changes)
		again, failed := h.apply(l, changes, n)
		h.rewrite(l, changes, n.name)
		switch {
		case failed == nil && !again:
			return l, errors.Join(broken, h.remember(l, n, broken))
		case round < maxRounds && (again || failed != nil):
			continue
		case failed == nil:
			failed = errors.New("something keeps undoing these changes")
		}
		l.refused = broken == nil
		return l, errors.Join(broken, failed)
	}
}

// mayChange returns an error if, by this look, converge is to change nothing. On the
// first look it remembers what the DHCP client has said.
func (h *Host) mayChange(l *look, n news, round int) error {
	if err := l.stillThere(n); err != nil {
		return err
	}
	if round == 1 && n.check != nil {
		if err := n.check(l); err != nil {
			return err
		}
	}
	if round == 1 {
		h.rememberLease(l, n)
	}
	return l.unread[n.name]
}

// changes returns the changes that lead from what the kernel has to what it should have.
// An error says that a template of the event's ENI is broken; then changes uses the
// rules that were rendered last.
func (h *Host) changes(ctx context.Context, l *look) ([]plan.Change, plan.Want, error) {
	verdicts := l.Judge()
	var broken error
	others, cancel := context.WithTimeout(ctx, renderLimit) // for all others together
	defer cancel()
	for i := range verdicts {
		if v := &verdicts[i]; v.Name != l.name {
			_ = h.renderRules(others, l, v) // that ENI's own event reports the error
		}
	}
	for i := range verdicts {
		if v := &verdicts[i]; v.Name == l.name {
			broken = h.renderRules(ctx, l, v)
		}
	}
	want := l.Want(verdicts, func(name string) []iprule.Rule {
		if s := l.rendered[name]; s != nil {
			return s.rules
		}
		return nil
	})
	return plan.Diff(l.State, want), want, broken
}

// renderRules renders the ip rules of an ENI that is to have some, unless this event has
// already. If they are lost, the ENI keeps all rules that it has.
func (h *Host) renderRules(ctx context.Context, l *look, v *plan.Verdict) error {
	if v.Do != plan.Serve || !v.Facts.Routed || !v.Facts.HasIPv4() {
		return nil
	}
	s, done := l.rendered[v.Name]
	if !done || !reflect.DeepEqual(s.facts, v.Facts) {
		s = h.rulesOf(ctx, v.Facts)
		l.rendered[v.Name] = s
	}
	if s.lost {
		v.Spare = plan.SpareAll
	}
	return s.broken
}

// rulesOf renders the ip rules of an ENI. If its template is broken, rulesOf reads them
// from the script that was rendered last, so that what works stays.
func (h *Host) rulesOf(ctx context.Context, e facts.ENI) *ruleScript {
	s := &ruleScript{facts: e}
	s.file, s.broken = h.render(ctx, "", e, "rules")
	if s.broken == nil && len(s.file) > 0 {
		s.rules, s.broken = iprule.Parse(s.file[0].Content, e)
	}
	if s.broken == nil {
		return s
	}
	script, err := h.memory().script(e.Name)
	if err == nil && script != nil {
		s.rules, err = iprule.Parse(script, e)
	}
	s.lost = err != nil || script == nil
	return s
}

// renderLimit bounds rendering, which takes less than a millisecond.
const renderLimit = 3 * time.Second

// render renders files of an ENI. Its own limit leaves the caller time to do without
// them.
func (h *Host) render(ctx context.Context, kind render.Stack, e facts.ENI, only ...string) ([]render.File, error) {
	ctx, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	return h.Templates.Render(ctx, kind, e, only...)
}

// warnForeign logs which ENIs the group rules wait for.
func (h *Host) warnForeign(l *look, want plan.Want) {
	for _, f := range want.Foreign {
		if why := l.waitsFor(want, f.Name); why != "" {
			h.Log.Warn(f.Name, "%s", why)
		}
	}
}

// waitsFor says that group rules wait for an interface; empty if none do.
func (l *look) waitsFor(want plan.Want, name string) string {
	waiting := want.Waiting(l.State)
	i := slices.IndexFunc(want.Foreign, func(f plan.Link) bool { return f.Name == name })
	if len(waiting) == 0 || i < 0 {
		return ""
	}
	return fmt.Sprintf("interface group is %d, set by another program, or before EC2NET_BASE was changed, which needs a reboot: leaving it. Rules such as %q are not installed; replies to containers or VPNs may leave by the wrong interface",
		want.Foreign[i].Group, waiting[0])
}

// tellReleased logs which interfaces ec2net leaves alone from now on, because they have a
// master, and that it takes away what it has made for them.
func (h *Host) tellReleased(l *look, changes []plan.Change) {
	for _, k := range l.Known {
		if k.Port && slices.ContainsFunc(changes, func(c plan.Change) bool { return c.Of() == k.Name && c.Removes() }) {
			h.Log.Warn(k.Name, "%s: removing ec2net's rules and addresses from it; a DHCP client that ec2net has started for it goes on", k.Left)
		}
	}
}

// rewrite updates the ip-rule scripts of ENIs whose rules have changed, but not that of
// the event's own ENI.
func (h *Host) rewrite(l *look, changes []plan.Change, but string) {
	done := map[string]bool{but: true}
	for _, c := range changes {
		_, added := c.(plan.AddRule)
		_, deleted := c.(plan.DelRule)
		name := c.Of()
		s := l.rendered[name]
		if done[name] || !(added || deleted) || s == nil || s.broken != nil || !l.scripts[name] {
			continue
		}
		done[name] = true
		if err := h.write(name, s.file); err != nil {
			h.Log.Warn(name, "%v", err)
		}
	}
}

// rememberLease writes what the DHCP client has said to disk, for the next event.
func (h *Host) rememberLease(l *look, n news) {
	k, ok := l.Of(n.name)
	if n.up && ok && k.Lease == (plan.Lease{}) {
		if err := h.Tree.Remove(leasePath(n.name)); err != nil {
			h.Log.Warn(n.name, "%v", err)
		}
	}
	if n.lease == nil || !ok || l.link.Index == 0 || !k.Ours || (k.Left != "" && l.unread[n.name] == nil) {
		return
	}
	if k.Lease == l.noted {
		return
	}
	if err := h.memory().setLease(n.name, k.Lease); err != nil {
		h.Log.Warn(n.name, "%v", err)
	}
}

// remember writes the facts that the kernel now follows to disk, and the ip-rule script
// that they render to.
func (h *Host) remember(l *look, n news, broken error) error {
	e := n.before
	if n.answer != nil {
		e = &n.answer.ENI
	}
	if e == nil {
		return nil
	}
	if l.movedUnread != nil {
		return l.movedUnread
	}
	if err := h.memory().setMoved(l.Moved); err != nil {
		return err
	}
	last, _ := h.memory().facts(n.name)
	if wrote, err := h.memory().keep(*e); err != nil {
		return err
	} else if wrote {
		h.Log.Info(n.name, "wrote %s", factsPath(n.name))
	}
	if last.MAC == e.MAC && withIPv6(last.ENI) == "" && !n.coming {
		h.tellIPv6(*e) // EC2 has given it the first
	}
	s := l.rendered[n.name]
	if s == nil || broken != nil || render.Nothing(*e) != "" {
		return nil
	}
	return h.write(n.name, s.file)
}

// scriptCurrent reports whether the ip-rule script on disk is what the look has rendered.
// It is true of an ENI that has no script.
func (h *Host) scriptCurrent(l *look, name string, e facts.ENI) bool {
	s := l.rendered[name]
	if render.Nothing(e) != "" || s == nil || len(s.file) == 0 {
		return true
	}
	script, err := h.memory().script(name)
	return err == nil && bytes.Equal(script, s.file[0].Content)
}
