package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"ec2net/facts"
	"ec2net/hooks/mangle"
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
// boot: mangle.Made.
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
	var refused *mangle.Error
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
	last := mangle.ParseMade(text)
	want, _ := h.chains(ctx, l, n) // keepMarks has the error
	if !slices.ContainsFunc(want, func(c mangle.Chain) bool { return !last.Has(c) }) {
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
	k, broken := h.lookAtMarks(ctx, n, mangle.Alone...)
	if k == nil && broken == nil && !n.wanted {
		return false, h.dropRestored(ctx, n)
	}
	if k == nil || k.Agrees() {
		return false, broken
	}
	missed, err = h.mangle().Mend(ctx, k)
	return missed, errors.Join(broken, err)
}

// mangle is iptables' mangle table on this machine.
func (h *Host) mangle() mangle.Table {
	return mangle.Table{Run: h.run, Output: h.Output, Info: h.Log.Info, Note: func(text string) error {
		if text == "" {
			return h.Tree.Remove(marksPath)
		}
		_, err := h.Tree.Write(marksPath, []byte(text))
		return err
	}}
}

// lookAtMarks looks at the marks, with more arguments of iptables-save. It returns nil if
// there are none and should be none, or if it could not tell. An error may come with a
// look: a template is broken.
func (h *Host) lookAtMarks(ctx context.Context, n marking, args ...string) (*mangle.Look, error) {
	text, err := h.Tree.Read(marksPath)
	if err != nil || !n.wanted && text == nil {
		return nil, err
	}
	l, err := h.look(news{})
	if err != nil {
		return nil, err
	}
	k := &mangle.Look{Last: mangle.ParseMade(text)}
	var broken error
	k.Want, broken = h.chains(ctx, l, n)
	if len(k.Want) == 0 && (broken != nil || k.Last == nil) {
		return nil, broken
	}
	k.Stale = func(name string) bool {
		i := slices.IndexFunc(k.Want, func(c mangle.Chain) bool { return c.Name == name })
		return i < 0 && h.isStale(l, n, name) || i >= 0 && !k.Want[i].Declares()
	}
	k.Now, err = h.mangle().Saved(ctx, args...)
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
	return h.mangle().DropAll(ctx, k.Now, k.Stale)
}

// lookForRestored looks for marks where none should be; it returns nil if there are none.
func (h *Host) lookForRestored(ctx context.Context, n marking) (*mangle.Look, error) {
	now, err := h.mangle().Saved(ctx)
	if err != nil || len(now.Own()) == 0 {
		return nil, err
	}
	l, err := h.look(news{})
	if err != nil {
		return nil, err
	}
	stale := func(name string) bool { return h.isStale(l, n, name) }
	return &mangle.Look{Stale: stale, Now: now, Last: mangle.NothingMade(now)}, nil
}

// isStale reports whether a chain that is not wanted has to go. That of an interface which
// somebody else configures now stays, as does one of which nothing is known.
func (h *Host) isStale(l *look, n marking, chain string) bool {
	name := strings.TrimPrefix(chain, mangle.Prefix)
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

// chains returns the chains that should exist; none if packets are to get no marks. The
// one for answers comes first: with the first mark its answer finds it. An error says
// that a template is broken; then chains uses what was rendered last.
func (h *Host) chains(ctx context.Context, l *look, n marking) ([]mangle.Chain, error) {
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
	if broken = errors.Join(broken, err); answers.Text == "" {
		return nil, broken
	}
	all := []mangle.Chain{answers}
	for _, e := range enis {
		own, err := h.ownChain(ctx, l, n, e)
		broken = errors.Join(broken, err)
		if own.Text != "" {
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
func (h *Host) ownChain(ctx context.Context, l *look, n marking, e facts.ENI) (mangle.Chain, error) {
	link, _ := l.State.LinkNamed(e.Name)
	k, _ := l.Of(e.Name)
	soon := n.soon != nil && n.soon.Name == e.Name
	if !soon && (k.Left != "" || !link.Up) {
		return mangle.Chain{}, nil
	}
	fragment, err := render.Path("iptables", e.Name)
	if err != nil {
		return mangle.Chain{}, err
	}
	var files []render.File
	if e.Primary { // nothing else writes its files
		files, err = h.render(ctx, e)
	} else if cfg, unread := h.memory().cfg(e.Name); unread != nil || cfg != nil && !marksInStanza(string(cfg), fragment) {
		return mangle.Chain{}, unread
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
func (h *Host) chain(n marking, name, iface, path string, files []render.File) (mangle.Chain, error) {
	c := mangle.Chain{Name: name, Iface: iface, Path: path}
	i := slices.IndexFunc(files, func(f render.File) bool { return f.Path == path })
	if n.looks && i >= 0 {
		c.Text = string(files[i].Content)
		return c, nil
	}
	unwritten := h.write(c.Of(), files)
	text, unread := h.Tree.Read(path)
	c.Text = string(text)
	return c, errors.Join(unwritten, unread)
}

// marksDiffer returns a command for each chain of the marks that is not what it should
// be: "ec2net marks" makes all of them. unseen says that there should be marks, and that
// only root may look.
func (h *Host) marksDiffer(ctx context.Context) (commands []command, unseen bool, err error) {
	unlock := h.lockToLook(ctx, "docker")
	defer unlock()
	n := marking{wanted: h.wantsMarks(), looks: true}
	k, broken := h.lookAtMarks(ctx, n)
	if k == nil && broken == nil && !n.wanted {
		k, _ = h.lookForRestored(ctx, n) // a machine that needs no marks may have no iptables
	}
	var refused *mangle.Error
	if k == nil && errors.As(broken, &refused) && os.Geteuid() != 0 {
		return nil, true, nil
	} else if k == nil {
		return nil, false, broken
	}
	for _, d := range k.Differences() {
		commands = append(commands, command{d.Iface, "ec2net marks # " + d.Why})
	}
	return commands, false, broken
}
