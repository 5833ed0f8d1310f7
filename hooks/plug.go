package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/kernel"
	"ec2net/plan"
	"ec2net/render"
)

var errNotYet = errors.New("the primary ENI has no address yet: waiting for its lease")

// Add configures an ENI that was attached: facts, files, ifup. With files for this
// very ENI it does not wait for IMDS.
func (h *Host) Add(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		// While IMDS or ifup was waited for, another device may have got the name.
		err := h.plug(ctx, name)
		switch {
		case errors.Is(err, errReplaced):
			h.Log.Info(name, "%v: beginning again", err)
		case errors.Is(err, errNotYet), errors.Is(err, errTakenDown): // no reason to try again
			h.Log.Info(name, "%v", err)
			return nil
		default:
			return err
		}
	}
}

func (h *Host) plug(ctx context.Context, name string) error {
	l, err := h.look(news{name: name})
	if err != nil {
		return err
	}
	if err := h.mayPlug(ctx, l); err != nil {
		return err
	}
	e, err := h.factsToPlug(ctx, l)
	if err != nil {
		return err
	}
	if e.Primary {
		return &PrimaryError{e.Name}
	}
	if why := render.Nothing(e.ENI); why != "" {
		return &UnmanagedError{Name: e.Name, Why: why}
	}
	return h.bringUp(ctx, l, e)
}

// mayPlug says whether a device is ec2net's to bring up, and now.
func (h *Host) mayPlug(ctx context.Context, l *look) error {
	k, _ := l.Of(l.name)
	switch {
	case l.unread[l.name] != nil:
		return l.unread[l.name]
	case k.Left != "":
		return &UnmanagedError{Name: l.name, Why: k.Left}
	case l.link.Index == 0:
		return &kernel.GoneError{Name: l.name}
	case l.Primary() == l.link.MAC:
		return &PrimaryError{l.name}
	case !l.PrimaryUp():
		return errNotYet
	case l.isUp():
		return nil
	}
	return h.checkOwner(ctx, l)
}

// isUp reports whether the device is up, and ec2net has brought it up.
func (l *look) isUp() bool {
	k, _ := l.Of(l.name)
	return l.link.Up && k.Note.Of(l.link)
}

// sourced are facts, and where they come from.
type sourced struct {
	facts.ENI
	from origin
}

type origin int

const (
	remembered origin = iota // remembered facts
	renamed                  // remembered facts of the device under another name
	answered                 // fresh facts
)

// factsToPlug are the facts that IMDS gave last for the device, if it gave any: then
// they are not waited for, and IMDS is asked once for what hangs on an ENI's place.
// For a device that had another name then, IMDS comes first.
func (h *Host) factsToPlug(ctx context.Context, l *look) (sourced, error) {
	if damaged := l.damaged[l.name]; damaged != nil {
		h.Log.Warn(l.name, "%v", damaged)
	}
	k, _ := l.Of(l.name)
	last, known := k.FactsOf(l.link)
	switch {
	case known && facts.NumberedByName(l.name):
		return sourced{last, remembered}, nil
	case known:
		if now, err := h.ask(ctx, l, oneIMDS); err == nil {
			return sourced{now, answered}, nil
		}
		return sourced{last, remembered}, nil
	}
	e, err := h.askUntilComplete(ctx, l)
	var imds *facts.IMDSError
	if before := l.Elsewhere(l.link); errors.As(err, &imds) && before != nil {
		h.Log.Warn(l.name, "%v; using the remembered facts of its former name", err)
		return sourced{*before, renamed}, nil
	}
	return sourced{e, answered}, err
}

// fits says whether an ENI can be configured on this machine.
func (h *Host) fits(l *look, e facts.ENI) error {
	if err := l.Distinct(e); err != nil {
		return err
	}
	return h.stack().Reads(e.Name)
}

// bringUp writes the files of an ENI, and runs ifup. What goes wrong and does not
// keep the ENI from coming up is said at the end.
func (h *Host) bringUp(ctx context.Context, l *look, e sourced) error {
	l, err := h.downIfStale(ctx, l)
	if err != nil {
		return err
	}
	a := arrival{sourced: e, up: l.isUp(), hasFiles: l.hasFiles(e.ENI)}
	if a.files, a.trouble = h.render(ctx, e.ENI); a.trouble != nil && !a.hasFiles {
		return a.trouble
	}
	n := news{name: e.Name, why: "hotplug", device: &l.link, up: true}
	if l, err = h.makeReady(ctx, n, &a); err != nil {
		return err
	}
	if err := h.ifup(ctx, l, e.ENI); err != nil {
		return errors.Join(err, a.trouble)
	}
	switch {
	case a.up && e.from == answered:
		err = h.take(ctx, l, n, e.ENI)
	case a.up:
		err = h.askForLease(ctx, l, n, leaseRenewed)
	default:
		err = h.finish(ctx, n, e)
	}
	return errors.Join(a.trouble, err)
}

// arrival is an ENI on its way up.
type arrival struct {
	sourced
	up       bool // it is live already
	hasFiles bool // existing files can bring it up
	files    []render.File
	// trouble does not keep the ENI from coming up: it has the files of before.
	trouble error
}

// makeReady does what comes before ifup: the files, the group of all ENIs, the note, the
// marks of containers' answers; and it remembers the facts. It looks again, since
// somebody may have taken the device while IMDS was waited for. Nothing changes before
// the files are written.
func (h *Host) makeReady(ctx context.Context, n news, a *arrival) (*look, error) {
	n.coming = !a.up
	switch {
	case a.up: // bringUp applies the answer after ifup
	case a.from == answered:
		n.answer = &a.ENI
	case a.from == renamed:
		n.before = &a.ENI
	}
	// With the kernel's lock in hand nobody waits: what was waited for in plug is decided.
	noWait, cancel := context.WithCancel(ctx)
	cancel()
	n.check = func(now *look) error {
		if err := errors.Join(h.mayPlug(noWait, now), h.fits(now, a.ENI)); err != nil {
			return err
		}
		if a.trouble == nil {
			a.trouble = h.write(n.name, a.files)
		}
		if !a.hasFiles {
			return a.trouble
		}
		return nil
	}
	l, err := h.converge(ctx, n)
	if err != nil {
		return l, err
	}
	if a.trouble != nil {
		h.Log.Warn(n.name, "using the existing files")
	}
	if n.coming {
		// Before ifup: should this be killed, the next device of the name is known not to
		// be the one that ifupdown has in mind, and that one is taken down first. And
		// before marksAgain: a "docker up" that begins now knows of the ENI.
		if err := errors.Join(h.memory().clearNote(n.name), h.memory().setNote(l.link, a.Number)); err != nil {
			return l, err
		}
	}
	// Before the first packet that comes in is marked.
	a.trouble = errors.Join(a.trouble, h.marksAgain(ctx, a.ENI))
	return l, nil
}

// finish makes what ifup, or the hook of its DHCP client, has not made.
func (h *Host) finish(ctx context.Context, n news, e sourced) error {
	n.up = false // the hook knows whether the lease has ended
	n.notice = "ip rules are missing after ifup: adding them"
	l, err := h.converge(ctx, n)
	asked := e.from == answered
	if l != nil {
		k, _ := l.Of(n.name)
		asked = asked || k.Lease.Of(l.link) // the hook has asked
	}
	if !asked {
		h.later(n.name, nil)
	}
	return err
}

// hasFiles reports whether an ENI can come up by the files that are there: they were
// written for this device, under this number.
func (l *look) hasFiles(e facts.ENI) bool {
	k, _ := l.Of(e.Name)
	last, known := k.FactsOf(l.link)
	return k.Stanza && known && !k.Fresh && e.Number == last.Number
}

// write writes rendered files, and says which are not as they were.
func (h *Host) write(name string, files []render.File) error {
	wrote, err := h.Tree.WriteAll(Contents(files))
	for _, path := range wrote {
		h.Log.Info(name, "wrote %s", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the files of %s: %w", name, err)
	}
	return nil
}

// Contents is rendered files in the order of writing: the cfg file comes last,
// since it calls for the others.
func Contents(files []render.File) []disk.Content {
	var contents []disk.Content
	for _, f := range slices.Backward(files) {
		contents = append(contents, disk.Content{Path: f.Path, Text: f.Content})
	}
	return contents
}

// downIfStale takes down what was brought up under this name for a device that is not
// there any more, with the files that it was brought up with. Then it looks again: the
// device that has the name now is down, too.
func (h *Host) downIfStale(ctx context.Context, l *look) (*look, error) {
	k, _ := l.Of(l.name)
	if k.Note == (plan.Note{}) || k.Note.Of(l.link) {
		return l, nil
	}
	h.Log.Info(l.name, "was brought up for another device: taking it down first")
	if err := h.takeDown(ctx, l); err != nil {
		return l, err
	}
	device := l.link
	device.Up = false
	again, err := h.look(news{name: l.name})
	if err != nil {
		return l, err
	}
	return again, again.stillThere(news{name: l.name, device: &device})
}
