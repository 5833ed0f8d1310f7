package hooks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"ec2net/facts"
	"ec2net/hooks/mangle"
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

// wantsMarks reports whether packets are to get marks. Only a host that forwards packets
// has answers that another machine or a container gives: the kernel chooses the source
// address of its own answers, and the rules of that address their way.
func (h *Host) wantsMarks() bool {
	return h.Marks == MarksYes || h.Marks == MarksAuto && h.Kernel.Forwards()
}

// wantedMarks is wantsMarks by a look, without another request to the kernel.
func (h *Host) wantedMarks(l *look) bool {
	return h.Marks == MarksYes || h.Marks == MarksAuto && l.State.Forwards()
}

// marking is what an event knows about marks.
type marking struct {
	soon  *facts.ENI // an ENI that is about to come up
	going string     // one that is being taken down
	// wanted says that packets are to get marks.
	wanted bool
	// looks says that the event only looks, and writes nothing.
	looks bool
	// restored says that another program may have put old marks back: keepMarks looks for
	// them even if ec2net has made none and is to make none.
	restored bool
}

// news is what the marking adds to a look: with an ENI that comes up the primary gets its
// own table, and so its marks.
func (n marking) news() news {
	if n.soon == nil {
		return news{}
	}
	return news{name: n.soon.Name, coming: true}
}

func (n marking) name() string {
	if n.soon != nil {
		return n.soon.Name
	}
	return n.going
}

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

// MendMarks is KeepMarks for a person: it also removes marks that another program has put
// back on a machine that should have none.
func (h *Host) MendMarks(ctx context.Context) error {
	_, err := h.keepMarks(ctx, marking{restored: true})
	return err
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

// finishMarks makes the marks of an ENI that were never made, because ec2net or ifup was
// killed first. It starts no process to find that out.
func (h *Host) finishMarks(ctx context.Context, l *look) error {
	n := marking{wanted: h.wantedMarks(l), looks: true}
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

// marksLimit bounds one run of keepMarks: another program may hold the lock of
// iptables-legacy.
const marksLimit = 10 * time.Second

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
		if k != nil && len(k.Want) == 0 && len(k.Now.Own()) == 0 { // others have removed the chains
			broken = errors.Join(broken, h.mangle().Note(""))
		}
		return false, broken
	}
	missed, err = h.mangle().Mend(ctx, k)
	return missed, errors.Join(broken, err)
}

// lookAtMarks looks at the marks. args are more arguments of iptables-save. It returns nil
// if ec2net has made none and should make none, or if it could not look. An error beside a
// look says that a template is broken.
func (h *Host) lookAtMarks(ctx context.Context, n marking, args ...string) (*mangle.Look, error) {
	text, err := h.Tree.Read(marksPath)
	if err != nil || !n.wanted && text == nil {
		return nil, err
	}
	l, err := h.look(n.news())
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

// marksPath has a mangle.Made: what iptables said of ec2net's chains when ec2net made them
// last, since boot.
var marksPath = path.Join(runDir, "marks")

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

// dropRestored removes the chains that another program, such as iptables-persistent, has put
// back on a machine that should have none.
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

// lookForRestored looks for marks on a machine that should have none; nil if it has none.
func (h *Host) lookForRestored(ctx context.Context, n marking) (*mangle.Look, error) {
	now, err := h.mangle().Saved(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a machine without marks may have no iptables
		return nil, nil
	case err != nil || len(now.Own()) == 0:
		return nil, err
	}
	l, err := h.look(news{})
	if err != nil {
		return nil, err
	}
	stale := func(name string) bool { return h.isStale(l, n, name) }
	return &mangle.Look{Stale: stale, Now: now, Last: mangle.NothingMade(now)}, nil
}

// marksDiffer returns, for each chain that is not what it should be, the command "ec2net
// marks", and why. One such command mends all chains. unseen says that only root may see
// whether the marks differ.
func (h *Host) marksDiffer(ctx context.Context) (commands []command, unseen bool, err error) {
	unlock := h.lockToLook(ctx, "docker")
	defer unlock()
	n := marking{wanted: h.wantsMarks(), looks: true}
	k, broken := h.lookAtMarks(ctx, n)
	if k == nil && broken == nil && !n.wanted {
		k, _ = h.lookForRestored(ctx, n)
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
