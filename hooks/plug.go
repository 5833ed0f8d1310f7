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
	"ec2net/stack/networkd"
)

var errNotYet = errors.New("the primary ENI has no address yet: waiting for its lease")

// Add configures an ENI that was attached: facts, files, ifup. If it has files for this
// very ENI, it does not wait for IMDS.
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
		// While plug waits for IMDS or ifup, another device may get the name.
		err := h.plug(ctx, name)
		switch {
		case errors.Is(err, errReplaced), errors.Is(err, errOvertaken):
			h.Log.Info(name, "%v: beginning again", err)
		case errors.Is(err, errNotYet):
			h.Log.Info(name, "%v", err)
			if up, err := h.awaitPrimary(ctx); err != nil || !up {
				return err
			}
		case errors.Is(err, errTakenDown): // no reason to try again
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
	h.rememberPods(l)
	if l, err = h.awaitStack(ctx, l); err != nil {
		return err
	}
	err = h.mayPlug(ctx, l)
	if undecided(err) { // udev may have lost an "add", for which networkd waits
		if err := h.Replay(name); err != nil {
			return err
		}
		err = h.mayPlug(ctx, l)
	}
	if err != nil {
		if failed := h.stepAside(ctx, l, err); failed != nil {
			err = errors.Join(err, failed)
		}
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

// undecided reports whether networkd has not decided yet who configures an interface.
func undecided(err error) bool {
	var undecided *networkd.UndecidedError
	return errors.As(err, &undecided)
}

// stepAside lets networkd use the file of who else configures an interface, if that is why
// ec2net leaves it alone. It may also be because of an ip rule: whose that is may need the
// interface to be up as it is.
func (h *Host) stepAside(ctx context.Context, l *look, why error) error {
	var left *UnmanagedError
	k, _ := l.Of(l.name)
	if l.kind != render.Networkd || !errors.As(why, &left) || k.Left != "" {
		return nil
	}
	byFile, err := h.ownerByFile(ctx, l)
	if err != nil || byFile.Nobody() {
		return err
	}
	return h.networkd().StepAside(ctx, l.link)
}

// mayPlug returns an error if ec2net is not to bring the device up, or not yet.
func (h *Host) mayPlug(ctx context.Context, l *look) error {
	k, _ := l.Of(l.name)
	switch {
	case l.unread[l.name] != nil:
		return l.unread[l.name]
	case l.podsUnread != nil:
		return fmt.Errorf("cannot tell whether ENIs are for pods: %w", l.podsUnread)
	case k.Left != "":
		return &UnmanagedError{Name: l.name, Why: k.Left, Try: k.Try}
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

// isUp reports whether the event's ENI is live: up, and brought up by ec2net.
func (l *look) isUp() bool {
	k, _ := l.Of(l.name)
	return l.link.Up && k.Note.Of(l.link)
}

// sourced is facts, and where they come from.
type sourced struct {
	answer
	from origin
}

type origin int

const (
	remembered origin = iota // remembered facts
	renamed                  // remembered facts of the device under another name
	answered                 // fresh facts
)

// factsToPlug returns the remembered facts of the device, if there are any, without
// waiting for IMDS. Only if its name does not give its number, factsToPlug asks once
// before. It uses facts that the device had under another name only if IMDS does not
// answer.
func (h *Host) factsToPlug(ctx context.Context, l *look) (sourced, error) {
	if damaged := l.damaged[l.name]; damaged != nil {
		h.Log.Warn(l.name, "%v", damaged)
	}
	k, _ := l.Of(l.name)
	last, known := k.FactsOf(l.link)
	switch {
	case known && facts.NumberedByName(l.name):
		return sourced{answer{ENI: last}, remembered}, nil
	case known:
		if now, err := h.ask(ctx, l, oneIMDS); err == nil {
			return sourced{now, answered}, nil
		}
		return sourced{answer{ENI: last}, remembered}, nil
	}
	e, err := h.askUntilComplete(ctx, l)
	var imds *facts.IMDSError
	if before := l.Elsewhere(l.link); errors.As(err, &imds) && before != nil {
		h.Log.Warn(l.name, "%v; using the remembered facts of its former name", err)
		return sourced{answer{ENI: *before}, renamed}, nil
	}
	return sourced{e, answered}, err
}

// fits returns an error if ec2net cannot configure an ENI on this machine.
func (h *Host) fits(l *look, e facts.ENI) error {
	if err := l.Distinct(e); err != nil {
		return err
	}
	return h.stack(l.kind).Prepare(e.Name)
}

// bringUp writes the files of an ENI, and runs ifup. If something fails, and the ENI can
// come up all the same, bringUp goes on, and returns the error at the end.
func (h *Host) bringUp(ctx context.Context, l *look, e sourced) error {
	l.kind = h.stackBy(l.State.Links, e.PrimaryMAC)
	kind := l.kind
	files, trouble := h.render(ctx, kind, e.ENI)
	l, err := h.leaveOtherStack(ctx, l, trouble)
	if err != nil {
		return err
	}
	if l, err = h.downIfStale(ctx, l); err != nil {
		return err
	}
	l.kind = kind
	a := arrival{sourced: e, kind: kind, up: l.isUp(), hasFiles: l.hasFiles(e.ENI), files: files, trouble: trouble}
	if a.trouble != nil && !a.hasFiles {
		return a.trouble
	}
	n := news{name: e.Name, why: "hotplug", device: &l.link, up: true}
	if l, err = h.makeReady(ctx, n, &a); err != nil {
		return err
	}
	if err := h.ifup(ctx, l, e.ENI); err != nil {
		return errors.Join(err, a.trouble)
	}
	if a.up { // the file may have other routes now
		if l, err = h.look(news{name: e.Name}); err != nil {
			return errors.Join(err, a.trouble)
		}
	} else if l.kind == render.Networkd {
		// Another event may have removed the marks while the link was down. A stanza has a
		// post-up line for that.
		a.trouble = errors.Join(a.trouble, h.marksAgain(ctx, marking{soon: &e.ENI}))
	}
	switch {
	case a.up && e.from == answered:
		err = h.take(ctx, l, n, e.answer)
	case a.up:
		err = h.askForLease(ctx, l, n, leaseRenewed)
	default:
		err = h.finish(ctx, l.kind, n, e)
	}
	return errors.Join(a.trouble, err)
}

// arrival is an ENI on its way up.
type arrival struct {
	sourced
	kind     render.Stack
	up       bool // it is live already
	hasFiles bool // existing files can bring it up
	files    []render.File
	// trouble is an error that does not keep the ENI from coming up, by existing files.
	trouble error
}

// makeReady does what comes before ifup: files, the group of all ENIs, the remembered
// facts, the note, the marks. It looks again, since the device
// may have got another owner during the wait for IMDS. It changes nothing before it has
// written the files.
func (h *Host) makeReady(ctx context.Context, n news, a *arrival) (*look, error) {
	n.coming = !a.up
	switch {
	case a.up: // bringUp applies the answer after ifup
	case a.from == answered:
		n.answer = &a.answer
	case a.from == renamed:
		n.before = &a.ENI
	}
	// Nobody waits while holding the kernel's lock; plug has waited for other owners.
	noWait, cancel := context.WithCancel(ctx)
	cancel()
	n.check = func(now *look) error {
		now.kind = a.kind
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
	l.kind = a.kind
	if a.trouble != nil {
		h.Log.Warn(n.name, "using the existing files")
	}
	if n.coming {
		// Before ifup: if ec2net is killed in it, and another device gets the name, the note
		// tells the next event to run ifdown first. And before marksAgain, so that a "docker
		// up" that begins now sees the ENI.
		if err := errors.Join(h.memory().clearNote(n.name), h.memory().setNote(l.link, a.Number)); err != nil {
			return l, err
		}
	}
	// Before ifup: the first packet that comes in gets its mark.
	a.trouble = errors.Join(a.trouble, h.marksAgain(ctx, marking{soon: &a.ENI}))
	return l, nil
}

// finish makes the changes that ifup, or the hook of its DHCP client, has left out.
func (h *Host) finish(ctx context.Context, kind render.Stack, n news, e sourced) error {
	n.up = false                 // the hook knows whether the lease has ended
	if kind == render.Ifupdown { // else no hook has made them
		n.notice = "ip rules are missing after ifup: adding them"
	}
	l, err := h.converge(ctx, n)
	asked := e.from == answered
	if l != nil && kind == render.Ifupdown {
		k, _ := l.Of(n.name)
		asked = asked || k.Lease.Of(l.link) // the hook has asked
	}
	if !asked {
		h.later(n.name, nil)
	}
	if link, known := l.primaryUnasked(kind); known {
		h.later(link.Name, nil)
	}
	return err
}

// primaryUnasked returns the primary's link if IMDS was never asked about it, since no hook of
// its DHCP client does.
func (l *look) primaryUnasked(kind render.Stack) (plan.Link, bool) {
	if l == nil || kind == render.Ifupdown {
		return plan.Link{}, false
	}
	link, here := l.PrimaryLink()
	k, _ := l.Of(link.Name)
	_, known := k.FactsOf(link)
	return link, here && !known
}

// hasFiles reports whether existing files can bring an ENI up: ec2net wrote them for this
// device, with this number.
func (l *look) hasFiles(e facts.ENI) bool {
	k, _ := l.Of(e.Name)
	last, known := k.FactsOf(l.link)
	return k.Stanza && known && !k.Fresh && e.Number == last.Number
}

// write writes rendered files, and logs which have changed.
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

// Contents returns rendered files in the order of writing: the cfg file comes last,
// since it uses the others.
func Contents(files []render.File) []disk.Content {
	var contents []disk.Content
	for _, f := range slices.Backward(files) {
		contents = append(contents, disk.Content{Path: f.Path, Text: f.Content})
	}
	return contents
}

// leaveOtherStack takes back what ec2net has written for an interface that another stack
// brought up, before the machine or its settings changed. It looks again if there was
// something. But the interface stays as it is if there is trouble with the new files, or if the
// new stack would not read them.
func (h *Host) leaveOtherStack(ctx context.Context, l *look, trouble error) (*look, error) {
	for _, kind := range render.Stacks {
		other := h.stack(kind)
		text, err := h.Tree.Read(other.Path(l.name))
		if err != nil {
			return l, err
		}
		if says := parseStanza(other, text, l.name); kind == l.kind || text == nil || !says.Generated || says.Unmanaged {
			continue
		}
		if err := errors.Join(trouble, h.stack(l.kind).Prepare(l.name)); err != nil {
			return l, err
		}
		h.Log.Info(l.name, "%s brings it up now: removing %s", l.kind, other.Path(l.name))
		there, err := h.has(kind)
		if err == nil && there {
			_, err = other.Down(ctx, l.link)
		}
		if err = errors.Join(err, h.Tree.Remove(other.Path(l.name))); err == nil && there {
			down := l.link
			down.Up = false
			_, err = other.Down(ctx, down) // without the file
		}
		if err = errors.Join(err, h.memory().clearNote(l.name)); err != nil {
			return l, err
		}
		kind := l.kind
		if l, err = h.look(news{name: l.name}); err != nil {
			return l, err
		}
		l.kind = kind
	}
	return l, nil
}

// downIfStale takes an interface down, by the stanza that brought it up, if that was for
// another device, or if its DHCP client is lost. Then it looks again, since ifdown also sets
// the device down that has the name now.
func (h *Host) downIfStale(ctx context.Context, l *look) (*look, error) {
	k, _ := l.Of(l.name)
	why := "was brought up for another device"
	if k.Note.Of(l.link) {
		lost, err := h.lostClient(l, l.link)
		if err != nil || !lost {
			return l, err
		}
		why = "is " + withoutClient
	} else if k.Note == (plan.Note{}) {
		return l, nil
	}
	h.Log.Info(l.name, "%s: taking it down first", why)
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
