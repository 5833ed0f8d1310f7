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

var errNotYet = errors.New("the primary ENI has no address yet: nothing done until it has")

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
		case errors.Is(err, errNotYet), errors.Is(err, errTakenDown): // by somebody who knows why
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
	e, fresh, err := h.factsToPlug(ctx, l)
	if err != nil {
		return err
	}
	if e.Primary {
		return &PrimaryError{e.Name}
	}
	if why := render.Nothing(e); why != "" {
		return &UnmanagedError{Name: e.Name, Why: why}
	}
	return h.bringUp(ctx, l, e, fresh)
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

// factsToPlug are the facts that IMDS gave last for the device, if it gave any: then
// they are not waited for, and IMDS is asked once for what hangs on an ENI's place.
// For a device that had another name then, IMDS comes first.
func (h *Host) factsToPlug(ctx context.Context, l *look) (e facts.ENI, fresh bool, err error) {
	if damaged := l.damaged[l.name]; damaged != nil {
		h.Log.Warn(l.name, "%v", damaged)
	}
	k, _ := l.Of(l.name)
	last, known := k.FactsOf(l.link)
	switch {
	case known && facts.NumberedByName(l.name):
		return last, false, nil
	case known:
		if now, err := h.ask(ctx, l, oneIMDS); err == nil {
			return now, true, nil
		}
		return last, false, nil
	}
	e, err = h.askUntilComplete(ctx, l)
	var imds *facts.IMDSError
	if moved := l.Elsewhere(l.link); errors.As(err, &imds) && moved != nil {
		h.Log.Warn(l.name, "%v; going on with what IMDS said last, when it had another name", err)
		return *moved, true, nil
	}
	return e, true, err
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
func (h *Host) bringUp(ctx context.Context, l *look, e facts.ENI, fresh bool) error {
	if err := h.downIfStale(ctx, l); err != nil {
		return err
	}
	a := arrival{eni: e, fresh: fresh}
	if a.files, a.trouble = h.render(ctx, e); a.trouble != nil && !l.hasFiles(e) {
		return a.trouble
	}
	n := news{name: e.Name, why: "hotplug", device: &l.link, up: true}
	l, err := h.makeReady(ctx, l, n, &a)
	if err != nil {
		return err
	}
	if err := h.ifup(ctx, l, e); err != nil {
		return errors.Join(err, a.trouble)
	}
	if l.isUp() {
		return errors.Join(a.trouble, h.askForLease(ctx, l, n, leaseRenewed))
	}
	return errors.Join(a.trouble, h.afterIfup(ctx, n, fresh))
}

// arrival is an ENI on its way up.
type arrival struct {
	eni   facts.ENI
	fresh bool // the facts are IMDS's of now
	files []render.File
	// trouble does not keep the ENI from coming up: it has the files of before.
	trouble error
}

// makeReady does what comes before ifup: the files, the group of all ENIs, the marks
// of containers' answers. It looks again, since somebody may have taken the device
// while IMDS was waited for. Nothing changes before the files are written.
func (h *Host) makeReady(ctx context.Context, l *look, n news, a *arrival) (*look, error) {
	n.coming = !l.isUp()
	if a.fresh && n.coming {
		n.answer = &a.eni
	}
	hasFiles := l.hasFiles(a.eni)
	n.check = func(now *look) error {
		if err := errors.Join(h.mayPlug(ctx, now), h.fits(now, a.eni)); err != nil {
			return err
		}
		if a.trouble == nil {
			a.trouble = h.write(n.name, a.files)
		}
		if !hasFiles {
			return a.trouble
		}
		return nil
	}
	l, err := h.converge(ctx, n)
	if err != nil {
		return l, err
	}
	if a.trouble != nil {
		h.Log.Warn(n.name, "going on with the files that are there")
	}
	// Before the first packet that comes in is marked.
	a.trouble = errors.Join(a.trouble, h.marksAgain(ctx, a.eni))
	return l, nil
}

// afterIfup mends what ifup has not led to: its configuration has no DHCP client, the
// client has no hook, or that was killed.
func (h *Host) afterIfup(ctx context.Context, n news, fresh bool) error {
	n.up = false // the hook knows
	n.notice = "ifup has not led to all ip rules: making them now"
	l, err := h.converge(ctx, n)
	if err != nil || fresh {
		return err
	}
	if k, _ := l.Of(n.name); !k.Lease.Of(l.link) {
		return h.later(n.name) // no hook has asked IMDS
	}
	return nil
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

// downIfStale takes down what was brought up under this name for a device that is
// not there any more, with the files that it was brought up with.
func (h *Host) downIfStale(ctx context.Context, l *look) error {
	k, _ := l.Of(l.name)
	if k.Note == (plan.Note{}) || k.Note.Of(l.link) {
		return nil
	}
	h.Log.Info(l.name, "was brought up for another device: taken down first")
	return h.takeDown(ctx, l)
}
