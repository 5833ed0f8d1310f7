package hooks

import (
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

// marking is what an event knows about marks.
type marking struct {
	soon  *facts.ENI // an ENI that is about to come up
	going string     // one that is being taken down
	// wanted says that packets are to get marks.
	wanted bool
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
	text, err := h.Tree.Read(marksPath)
	if err != nil {
		return false, err
	}
	if n.wanted = h.wantsMarks(); !n.wanted && text == nil {
		return false, nil
	}
	l, err := h.look(news{})
	if err != nil {
		return false, err
	}
	last := parseLastMarks(text)
	want, err := h.chains(ctx, l, n)
	if len(want) == 0 && (err != nil || last == nil) {
		return false, err
	}
	m := mangle{Host: h, program: iptables}
	now, failed := m.saved(ctx, inMangle...)
	if failed != nil {
		return false, errors.Join(err, failed)
	}
	stale := func(name string) bool {
		i := slices.IndexFunc(want, has(name))
		return i < 0 && h.isStale(l, n, name) || i >= 0 && !want[i].declares()
	}
	if last != nil && last.agrees(now, want, stale) {
		return false, err
	}
	if last == nil {
		last = &lastMarks{backEnd: unknown}
	}
	missed, failed = m.mend(ctx, want, stale, last, now)
	return missed, errors.Join(err, failed)
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
	broken := h.renderAnswers(ctx, enis)
	answers, err := h.chain(render.DockerChain, "", answersPath)
	if err != nil || answers.text == "" {
		return nil, errors.Join(broken, err)
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

// renderAnswers writes the fragment that marks answers.
func (h *Host) renderAnswers(ctx context.Context, enis []facts.ENI) error {
	ctx, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	f, err := h.Templates.Docker(ctx, enis, h.Numbers.Base)
	if err != nil {
		return err
	}
	return h.write("marks", []render.File{f})
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
	if e.Primary {
		err = h.writePrimary(ctx, e)
	} else if cfg, unread := h.memory().cfg(e.Name); unread != nil || cfg != nil && !marksInStanza(string(cfg), fragment) {
		return chain{}, unread
	}
	own, unread := h.chain(render.View{ENI: e}.Chain(), e.Name, fragment)
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

// writePrimary writes the files of the primary, which nothing else writes.
func (h *Host) writePrimary(ctx context.Context, e facts.ENI) error {
	files, err := h.render(ctx, e)
	if err != nil {
		return err
	}
	return h.write(e.Name, files)
}

// chain reads the fragment of a chain.
func (h *Host) chain(name, iface, path string) (chain, error) {
	text, err := h.Tree.Read(path)
	return chain{name: name, iface: iface, path: path, text: string(text)}, err
}

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
	name := c.iface
	if name == "" {
		name = "marks"
	}
	switch {
	case again:
		log.Info(name, "marks were missing: restored them")
	case c.iface == "":
		log.Info(name, "answers get the mark of their connection (chain %s)", c.name)
	default:
		log.Info(name, "what comes in for this machine gets a mark (chain %s)", c.name)
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
