package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"ec2net/facts"
	"ec2net/render"
)

// Marks says whether packets get marks, and with them their connections.
type Marks int

// Whether packets get marks.
const (
	MarksAuto Marks = iota // while the host forwards packets
	MarksYes
	MarksNo
)

// ParseMarks parses auto, yes or no.
func ParseMarks(text string) (Marks, error) {
	i := slices.Index([]string{"auto", "yes", "no"}, text)
	if i < 0 {
		return MarksAuto, fmt.Errorf("%.40q is none of auto, yes and no", text)
	}
	return Marks(i), nil
}

// marksLimit bounds one run of keepMarks: another program may hold the lock of
// iptables-legacy.
const marksLimit = 10 * time.Second

// marksPath has what iptables said of ec2net's chains when they were made last, since
// boot: lastMarks.
var marksPath = path.Join(runDir, "marks")

// KeepMarks makes the marks what they should be, in iptables' mangle table: a chain for
// each ENI that is up, which marks what comes in, and one that gives answers the mark of
// their connection. soon is an ENI that is coming up; empty for none. If there is
// nothing to mark, KeepMarks starts no process; if nothing differs, one.
func (h *Host) KeepMarks(ctx context.Context, soon string) error {
	var n marking
	if soon != "" {
		l, err := h.look(news{name: soon})
		if err != nil {
			return err
		}
		if e, known := l.knownFacts(soon); known {
			n.soon = &e
		}
	}
	_, err := h.keepMarks(ctx, n)
	return err
}

// MendMarks is KeepMarks for a person. It also removes marks that another program has put
// back where none should be.
func (h *Host) MendMarks(ctx context.Context) error {
	_, err := h.keepMarks(ctx, marking{restored: true})
	return err
}

// knownFacts returns the facts of the device that has a name.
func (l *look) knownFacts(name string) (facts.ENI, bool) {
	link, _ := l.State.LinkNamed(name)
	k, _ := l.Of(name)
	return k.FactsOf(link)
}

// marksAgain is keepMarks for an ENI that comes up or goes down, which it does without
// marks if iptables fails.
func (h *Host) marksAgain(ctx context.Context, n marking) error {
	_, err := h.keepMarks(ctx, n)
	var refused *iptablesError
	if errors.As(err, &refused) {
		h.Log.Warn(n.name(), "%v", err)
		return nil
	}
	return err
}

// finishMarks makes the marks of an ENI that were never made, since ec2net or ifup was
// killed before. To know that, it starts no process.
func (h *Host) finishMarks(ctx context.Context, l *look) error {
	n := marking{wanted: h.wantsMarks(), looks: true}
	if !n.wanted {
		return nil
	}
	text, err := h.Tree.Read(marksPath)
	if err != nil {
		return err
	}
	last := parseLastMarks(text)
	want, _ := h.chains(ctx, l, n) // keepMarks has the error
	if !slices.ContainsFunc(want, func(c chain) bool { return !last.has(c) }) {
		return nil
	}
	return h.marksAgain(ctx, marking{})
}

// marking is what an event knows about marks.
type marking struct {
	soon  *facts.ENI // an ENI that is about to come up
	going string     // one that is being taken down
	// wanted says that packets are to get marks.
	wanted bool
	// looks says that nothing is to be written.
	looks bool
	// restored says that another program may have put old marks back: look for them even
	// if nothing was made and nothing is to be.
	restored bool
}

func (n marking) name() string {
	if n.soon != nil {
		return n.soon.Name
	}
	return n.going
}

// wantsMarks reports whether packets are to get marks. Only a host that forwards packets
// has answers that another machine or a container gives: the kernel chooses the source
// address of its own answers, and the rules of that address their way.
func (h *Host) wantsMarks() bool {
	return h.Marks == MarksYes || h.Marks == MarksAuto && h.Kernel.Forwards()
}

// keepMarks is KeepMarks. It reports whether something that it had made was missing.
func (h *Host) keepMarks(ctx context.Context, n marking) (missed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, marksLimit)
	defer cancel()
	unlock, err := h.lock(ctx, "docker")
	if err != nil {
		return false, err
	}
	defer unlock()
	n.wanted = h.wantsMarks()
	k, broken := h.lookAtMarks(ctx, n, inMangle...)
	if k == nil && broken == nil && !n.wanted {
		return false, h.dropRestored(ctx, n)
	}
	if k == nil || k.last.agrees(k.now, k.want, k.stale) {
		return false, broken
	}
	m := mangle{Host: h, program: iptables}
	missed, err = m.mend(ctx, k.want, k.stale, k.last, k.now)
	return missed, errors.Join(broken, err)
}

// marksLook is what the marks are and should be, at one moment.
type marksLook struct {
	want  []chain
	stale func(name string) bool
	now   saved
	last  *lastMarks
}

// lookAtMarks looks at the marks, with more arguments of iptables-save. It returns nil if
// there are none and should be none, or if it could not tell. An error may come with a
// look: a template is broken.
func (h *Host) lookAtMarks(ctx context.Context, n marking, args ...string) (*marksLook, error) {
	text, err := h.Tree.Read(marksPath)
	if err != nil || !n.wanted && text == nil {
		return nil, err
	}
	l, err := h.look(news{})
	if err != nil {
		return nil, err
	}
	k := &marksLook{last: parseLastMarks(text)}
	var broken error
	k.want, broken = h.chains(ctx, l, n)
	if len(k.want) == 0 && (broken != nil || k.last == nil) {
		return nil, broken
	}
	if k.last == nil {
		k.last = &lastMarks{backEnd: unknown}
	}
	k.stale = func(name string) bool {
		i := slices.IndexFunc(k.want, has(name))
		return i < 0 && h.isStale(l, n, name) || i >= 0 && !k.want[i].declares()
	}
	k.now, err = mangle{Host: h, program: iptables}.saved(ctx, args...)
	if err != nil {
		return nil, errors.Join(broken, err)
	}
	return k, broken
}

// dropRestored removes the chains that another program has put back, such as one that
// saves and restores the firewall, on a machine that is to have none.
func (h *Host) dropRestored(ctx context.Context, n marking) error {
	if !n.restored {
		return nil
	}
	k, err := h.lookForRestored(ctx, n)
	if k == nil {
		return err
	}
	return mangle{Host: h, program: iptables}.dropAll(ctx, k.now, k.stale)
}

// lookForRestored looks for marks where none should be; it returns nil if there are none.
func (h *Host) lookForRestored(ctx context.Context, n marking) (*marksLook, error) {
	now, err := mangle{Host: h, program: iptables}.saved(ctx)
	if err != nil || len(now.own()) == 0 {
		return nil, err
	}
	l, err := h.look(news{})
	if err != nil {
		return nil, err
	}
	stale := func(name string) bool { return h.isStale(l, n, name) }
	return &marksLook{stale: stale, now: now, last: &lastMarks{backEnd: now.backEnd}}, nil
}

// isStale reports whether a chain that is not wanted has to go. That of an interface which
// somebody else configures now stays, as does one of which nothing is known.
func (h *Host) isStale(l *look, n marking, chain string) bool {
	name := strings.TrimPrefix(chain, chainPrefix)
	link, there := l.State.LinkNamed(name)
	k, _ := l.Of(name)
	e, known := k.FactsOf(link)
	switch {
	case chain == render.DockerChain, name == n.going, !there:
		return true
	case k.Left != "":
		return false
	}
	return !n.wanted || !link.Up || known && !l.HasTable(e)
}

// chain is a chain of ec2net's in the mangle table, as it should be.
type chain struct {
	name  string
	iface string // packets from this interface go through it; empty: all
	path  string // of its fragment
	text  string // the fragment
}

func has(name string) func(chain) bool { return func(c chain) bool { return c.name == name } }

// chains returns the chains that should exist; none if packets are to get no marks. The
// one for answers comes first: with the first mark its answer finds it. An error says
// that a template is broken; then chains uses what was rendered last.
func (h *Host) chains(ctx context.Context, l *look, n marking) ([]chain, error) {
	if !n.wanted {
		return nil, nil
	}
	enis := slices.DeleteFunc(l.Marked(), func(e facts.ENI) bool { return e.Name == n.name() })
	if n.soon != nil && n.soon.Routed {
		enis = append(enis, *n.soon)
	}
	if len(enis) == 0 {
		return nil, nil
	}
	slices.SortFunc(enis, func(a, b facts.ENI) int { return a.Number - b.Number })
	files, broken := h.renderAnswers(ctx, enis)
	answers, err := h.chain(n, render.DockerChain, "", answersPath, files)
	if broken = errors.Join(broken, err); answers.text == "" {
		return nil, broken
	}
	all := []chain{answers}
	for _, e := range enis {
		own, err := h.ownChain(ctx, l, n, e)
		broken = errors.Join(broken, err)
		if own.text != "" {
			all = append(all, own)
		}
	}
	return all, broken
}

var answersPath = path.Join(stateDir, "docker.iptables")

// renderAnswers renders the fragment that marks answers.
func (h *Host) renderAnswers(ctx context.Context, enis []facts.ENI) ([]render.File, error) {
	ctx, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	f, err := h.Templates.Docker(ctx, enis, h.Numbers.Base)
	if err != nil {
		return nil, err
	}
	return []render.File{f}, nil
}

// ownChain returns the chain of an ENI, without a text if it should have none.
func (h *Host) ownChain(ctx context.Context, l *look, n marking, e facts.ENI) (chain, error) {
	link, _ := l.State.LinkNamed(e.Name)
	k, _ := l.Of(e.Name)
	soon := n.soon != nil && n.soon.Name == e.Name
	if !soon && (k.Left != "" || !link.Up) {
		return chain{}, nil
	}
	fragment, err := render.Path("iptables", e.Name)
	if err != nil {
		return chain{}, err
	}
	var files []render.File
	if e.Primary { // nothing else writes its files
		files, err = h.render(ctx, e)
	} else if cfg, unread := h.memory().cfg(e.Name); unread != nil || cfg != nil && !marksInStanza(string(cfg), fragment) {
		return chain{}, unread
	}
	own, unread := h.chain(n, render.View{ENI: e}.Chain(), e.Name, fragment, files)
	return own, errors.Join(err, unread)
}

// marksInStanza reports whether a stanza has a line for the marks. An administrator's
// template may have none.
func marksInStanza(cfg, fragment string) bool {
	for line := range strings.Lines(cfg) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "#") && (strings.Contains(line, "ec2net marks") || strings.Contains(line, fragment)) {
			return true
		}
	}
	return false
}

// chain returns a chain with its fragment. files are what was rendered anew for it, if
// anything was: chain writes them, unless n only looks.
func (h *Host) chain(n marking, name, iface, path string, files []render.File) (chain, error) {
	c := chain{name: name, iface: iface, path: path}
	i := slices.IndexFunc(files, func(f render.File) bool { return f.Path == path })
	if n.looks && i >= 0 {
		c.text = string(files[i].Content)
		return c, nil
	}
	unwritten := h.write(c.of(), files)
	text, unread := h.Tree.Read(path)
	c.text = string(text)
	return c, errors.Join(unwritten, unread)
}

// of names what the chain is about in the log.
func (c chain) of() string { return cmp.Or(c.iface, "marks") }

// jump is the rule that jumps into the chain, as iptables-save(8) prints it.
func (c chain) jump() string {
	if c.iface == "" {
		return "PREROUTING -j " + c.name
	}
	return "PREROUTING -i " + c.iface + " -j " + c.name
}

// declares reports whether the fragment makes the chain: an administrator's may be empty.
func (c chain) declares() bool { return slices.Contains(c.declared(), c.name) }

// declared are the chains of the mangle table that the fragment makes.
func (c chain) declared() (names []string) {
	table := ""
	for line := range strings.Lines(c.text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		if f := strings.Fields(line); table == "mangle" && len(f) > 1 && strings.HasPrefix(line, ":") && f[1] == "-" {
			names = append(names, f[0][1:])
		}
	}
	return names
}

// log says that the marks are there, or are there again.
func (c chain) log(log Log, again bool) {
	switch {
	case again:
		log.Info(c.of(), "marks were missing: restored them")
	case c.iface == "":
		log.Info(c.of(), "answers get the mark of their connection (chain %s)", c.name)
	default:
		log.Info(c.of(), "what comes in for this machine gets a mark (chain %s)", c.name)
	}
}

// iptablesError says that iptables has failed.
type iptablesError struct{ error }

func (e *iptablesError) Unwrap() error { return e.error }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return &iptablesError{fmt.Errorf("marks: %w", err)}
}
