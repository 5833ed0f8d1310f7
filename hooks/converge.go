package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
)

// news is what an event knows, in addition to what a look finds.
type news struct {
	// name is the event's interface; empty if the event is about all.
	name string
	// why names the event in the log.
	why string
	// device is the device that the event began with: converge does nothing if another
	// one has the name now, or if this one was taken down meanwhile. Nil: whichever
	// device has the name.
	device *plan.Link
	// lease is what the DHCP client says, if it says anything. up says that somebody
	// wants the interface up: then an ended lease no longer counts.
	lease *leaseNews
	up    bool
	// answer is the answer of IMDS about the interface, if there is one. before, if there
	// is none, is the remembered facts of the device under another name.
	answer *answer
	before *facts.ENI
	// coming says that the interface is about to be brought up, going that it is
	// being taken down.
	coming, going bool
	// check, unless nil, returns an error if converge is to stop after the first look.
	check func(*look) error
	// docker says whether docker is up or down, if the event knows.
	docker plan.Docker
	// notice is a line for the log, before the first change of the interface.
	notice string
	// contests are the changes that another program undoes, if they are counted.
	contests *contests
	// rendered has the ip rules that the event has rendered, by interface.
	rendered map[string]*ruleScript
}

// answer is an answer of IMDS.
type answer struct {
	facts.ENI
	// then is what was remembered when the question began. If a newer answer has changed
	// that, this one does not count.
	then []plan.Known
}

type leaseNews struct {
	addr  netip.Addr
	ended bool
}

// look is the machine at one moment, with the news of an event. After every wait it is
// outdated.
type look struct {
	recalled
	name     string
	link     plan.Link // the device with that name; its Index is 0 if there is none
	rendered map[string]*ruleScript
	// noted is the lease that was remembered before the event's news.
	noted plan.Lease
	// overtaken says that the event's answer is older than what is remembered.
	overtaken bool
	// refused says that the kernel refused a change, and nothing else went wrong.
	refused bool
}

// ruleScript is the ip rules of an ENI, by the templates.
type ruleScript struct {
	facts  facts.ENI
	file   []render.File
	rules  []iprule.Rule
	broken error
	// lost says that the template is broken, and no earlier script is usable.
	lost bool
}

var (
	errReplaced  = errors.New("another device has the name now")
	errTakenDown = errors.New("it was taken down meanwhile")
	errOvertaken = errors.New("a newer answer of IMDS was faster")
)

// look gathers what the kernel has and what ec2net remembers.
func (h *Host) look(n news) (*look, error) {
	r, err := h.memory().recall(n.name)
	if err != nil {
		return nil, err
	}
	l := &look{recalled: r, name: n.name, rendered: n.rendered}
	l.overtaken = n.answer != nil && l.Overtaken(n.answer.ENI, n.answer.then)
	if l.rendered == nil {
		l.rendered = make(map[string]*ruleScript)
	}
	state, err := h.Kernel.Look(func(links []plan.Link) plan.Scope {
		l.State.Links = links
		l.hear(n)
		l.meetPrimary(h.memory())
		scope := l.Scope(links)
		if linkLocal(h.IMDS) {
			scope.To = h.IMDS
		}
		return scope
	})
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	l.State = state
	l.lookForPods()
	return l, nil
}

// hear adds the news of an event to the look.
func (l *look) hear(n news) {
	l.link, _ = l.State.LinkNamed(n.name)
	k, _ := l.Of(n.name)
	l.noted = k.Lease
	if n.lease != nil {
		k.Lease = plan.Lease{MAC: l.link.MAC, Index: l.link.Index, Addr: n.lease.addr, Ended: n.lease.ended}
	}
	if n.up && k.Lease.Ended {
		k.Lease = plan.Lease{}
	}
	if k.Going = n.going; n.going {
		k.Ours = true
	}
	if k.Coming = n.coming; n.coming {
		k.Ours = true
	}
	if n.name != "" {
		l.Set(k)
	}
	if n.before != nil {
		k.Facts = *n.before
		l.Set(k)
	}
	if n.answer != nil {
		l.Learn(n.answer.ENI)
		if k, _ := l.Of(n.name); !k.Ours {
			k.Ours = true
			l.Set(k)
		}
	}
	if n.docker != plan.DockerAsIs {
		l.Docker = n.docker
	}
	l.leave()
}

// meetPrimary adds the primary to what is known, if only the facts of other ENIs name it:
// an administrator, or a program without a hook, configures it.
func (l *look) meetPrimary(s memory) {
	link, here := l.PrimaryLink()
	if _, known := l.Of(link.Name); !here || known {
		return
	}
	l.recallOne(s, link.Name, nil)
	k := l.Known[len(l.Known)-1]
	l.Known = l.Known[:len(l.Known)-1]
	k.Ours = true
	l.Set(k)
}

// with returns a copy of the look with more news, without looking again.
func (l *look) with(n news) *look {
	more := *l
	more.Known = append([]plan.Known(nil), l.Known...)
	more.Moved = append([]plan.Moved(nil), l.Moved...)
	more.hear(n)
	return &more
}

// stillThere returns an error if, during a wait for IMDS or a lock, the event's device has
// gone, lost its name to another or was taken down, or its answer was overtaken.
func (l *look) stillThere(n news) error {
	if n.device == nil {
		return nil
	}
	switch {
	case l.link.Index == 0:
		return &kernel.GoneError{Name: n.name}
	case !l.link.Is(*n.device):
		return errReplaced
	case n.device.Up && !l.link.Up:
		return errTakenDown
	case l.overtaken:
		return errOvertaken
	}
	return nil
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
	s.file, s.broken = h.render(ctx, e, "rules")
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
func (h *Host) render(ctx context.Context, e facts.ENI, only ...string) ([]render.File, error) {
	ctx, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	return h.Templates.Render(ctx, e, only...)
}

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
	return fmt.Sprintf("interface group is %d, set by another program: leaving it. Rules such as %q are not installed; replies to containers or VPNs may leave by the wrong interface",
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

// apply makes all changes, also after one has failed; but no rule of the whole machine,
// which needs every ENI in the group, if one could not be put there. again says that it
// has removed something: then converge has to look at the outcome.
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

// maxLines bounds the lines about routes that one round logs, and the errors that it
// returns: a router may change thousands of routes at once.
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

// someErrors are the first errors, and how many more there are.
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
		e.first = append(e.first, fmt.Errorf("%d more changes have failed", e.more))
	}
	return errors.Join(e.first...)
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
		h.tellIPv6(*e) // it is new
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
