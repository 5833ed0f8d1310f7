package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ec2net/facts"
	"ec2net/render"
	"ec2net/render/disk"
)

// ifupLimit bounds ifup: dhclient gives up after a minute by itself.
const ifupLimit = 100 * time.Second

// PrimaryError says that an interface is the primary ENI's.
type PrimaryError struct{ Name string }

func (e *PrimaryError) Error() string {
	return fmt.Sprintf("%s is the primary ENI, which ec2net never takes up or down", e.Name)
}

// Add configures an ENI that was attached: facts, files, group, ifup. With
// files for this very ENI it does not wait for IMDS.
func (h *Host) Add(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	if err := h.managed(name); err != nil {
		return err
	}
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		link, links, err := h.link(name)
		if err != nil {
			return err
		}
		// While IMDS was waited for, another device may have got the name.
		if err := h.addDevice(ctx, link, links); !errors.Is(err, errReplaced) {
			return err
		}
		h.logf(name, "another device has the name now: beginning again")
	}
}

var errReplaced = errors.New("another device has the name now")

func (h *Host) addDevice(ctx context.Context, link Link, links []Link) error {
	name := link.Name
	e, remembered, err := h.lastFacts(link)
	if err != nil {
		h.logf(name, "%v", err)
	}
	known, err := h.state().known(e)
	if err != nil {
		return err
	}
	if known.Primary == link.MAC {
		return &PrimaryError{name}
	}
	if up, err := h.primaryIsUp(known, links); err != nil {
		return err
	} else if !up {
		h.logf(name, "the primary ENI has no address yet: nothing done until it has")
		return nil
	}
	was := link.Up && h.state().configured(link)
	if !was {
		if err := h.checkGuest(ctx, link); err != nil {
			return err
		}
	}
	last := e
	if !remembered {
		if e, err = h.askUntilComplete(ctx, link); err != nil {
			return err
		}
	} else if !facts.NumberedByName(name) {
		e = h.placeNow(ctx, link, e)
	}
	if e.Primary {
		return &PrimaryError{name}
	}
	if why := render.Nothing(e); why != "" {
		return &UnmanagedError{name, why}
	}
	if err := h.distinct(e, links); err != nil {
		return err
	}
	if err := h.checkSourced(name); err != nil {
		return err
	}
	if err := h.downIfStale(ctx, link); err != nil {
		return err
	}
	// What goes wrong and does not keep the ENI from coming up is said at the end.
	var trouble error
	if err := h.writeFiles(ctx, e); err != nil {
		cfg, _ := h.state().cfg(name)
		if cfg == nil || !remembered || e.Table != last.Table {
			return err
		}
		h.logf(name, "%v; going on with the files that are there", err)
		trouble = err
	}
	if err := h.joinGroup(ctx, e); err != nil {
		return err
	}
	// Before the first packet that comes in is marked.
	trouble = errors.Join(trouble, h.dockerAgain(ctx, e))
	if err := h.ifup(ctx, link, e, was); err != nil {
		return errors.Join(err, trouble)
	}
	lease := Lease{Interface: name, Reason: "hotplug", Address: e.IPv4[0]}
	if was { // then ifup had nothing to do, and no hook was called
		return errors.Join(trouble, h.makeCurrent(ctx, lease))
	}
	return errors.Join(trouble, h.withoutHook(ctx, link, lease))
}

// withoutHook makes the rules if ifup has not led to all of them: its
// configuration has no DHCP client, the client has no hook, or that was killed.
func (h *Host) withoutHook(ctx context.Context, link Link, l Lease) error {
	e, lacking, err := h.lacksRules(link)
	if err != nil || !lacking {
		return err
	}
	h.logf(link.Name, "ifup has not led to all ip rules: making them now")
	_, err = h.apply(ctx, l, nil, e, e.IPv4)
	return err
}

// lacksRules says whether an ENI that was brought up has not all the rules that
// were rendered for it last.
func (h *Host) lacksRules(link Link) (e facts.ENI, lacking bool, err error) {
	e, ok, err := h.lastFacts(link)
	if up, isUp := h.state().broughtUp(link.Name); err != nil || !ok || !e.Routed || !e.HasIPv4() || !isUp || up.table != e.Table {
		return e, false, err
	}
	have, err := h.Kernel.Rules()
	if err != nil {
		return e, false, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	return e, slices.ContainsFunc(withLease(h.lastRules(e), e, e.IPv4[0]), func(r render.Rule) bool {
		return !slices.ContainsFunc(have, func(k KernelRule) bool { return !k.Odd && k.Rule == r })
	}), nil
}

// placeNow asks IMDS whether an ENI has kept its place, on which the numbers of
// an interface such as ens6 hang. What is remembered serves if it cannot say.
func (h *Host) placeNow(ctx context.Context, link Link, last facts.ENI) facts.ENI {
	if e, err := h.ask(ctx, link, oneIMDS, nil); err == nil {
		return e
	}
	return last
}

// primaryIsUp says whether the primary has an address, which is how IMDS is
// reached. True if it is not known which interface that is.
func (h *Host) primaryIsUp(known Known, links []Link) (bool, error) {
	if known.Primary == (facts.MAC{}) {
		return true, nil
	}
	known.MACs = []facts.MAC{known.Primary}
	primary := known.members(links) // the address may be a bridge's
	if len(primary) == 0 {
		return true, nil // remembered from another machine
	}
	addrs, err := h.Kernel.Addrs()
	return slices.ContainsFunc(addrs, func(a Addr) bool {
		return slices.ContainsFunc(primary, func(l Link) bool { return l.Index == a.LinkIndex })
	}), err
}

// distinct refuses an ENI whose numbers another one, attached now, has.
func (h *Host) distinct(e facts.ENI, links []Link) error {
	all, err := h.state().all()
	if err != nil {
		return err
	}
	present := []facts.ENI{e}
	for _, other := range all {
		if l, ok := linkNamed(links, other.Name); ok && l.MAC == other.MAC && other.Name != e.Name {
			present = append(present, other)
		}
	}
	return facts.Distinct(present)
}

// downIfStale takes down what was brought up under this name for a device that
// is not there any more, with the files that it was brought up with.
func (h *Host) downIfStale(ctx context.Context, link Link) error {
	s := h.state()
	before, err := h.Tree.Read(configuredPath(link.Name))
	if err != nil || before == nil || s.configured(link) {
		return err
	}
	h.logf(link.Name, "was brought up for another device: taken down first")
	return h.takeDown(ctx, link.Name)
}

// writeFiles renders all files of an ENI before it writes the first.
func (h *Host) writeFiles(ctx context.Context, e facts.ENI) error {
	files, err := h.render(ctx, e)
	if err != nil {
		return err
	}
	wrote, err := h.Tree.WriteAll(Contents(files))
	for _, path := range wrote {
		h.logf(e.Name, "wrote %s", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the files of %s: %w", e.Name, err)
	}
	_, err = h.state().keep(e)
	return err
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

// joinGroup puts the ENIs into their interface group before this one gets an
// address: the group rule, if it is there already, relies on it.
func (h *Host) joinGroup(ctx context.Context, e facts.ENI) error {
	unlock, err := h.lock(ctx, "kernel")
	if err != nil {
		return err
	}
	defer unlock()
	known, err := h.state().known(e)
	if err != nil {
		return err
	}
	links, err := h.Kernel.Links()
	if err != nil {
		return err
	}
	for _, c := range planGroups(links, known) {
		if err := h.Kernel.Apply(c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		h.logChange(e.Name, c, "hotplug")
	}
	return nil
}

// ifup brings the ENI up, or leaves nothing of it. ifup that failed has started
// a DHCP client and keeps no state; only ifdown --force takes that away. An ENI
// that was up stays up.
func (h *Host) ifup(ctx context.Context, link Link, e facts.ENI, was bool) error {
	ctx, cancel := context.WithTimeout(ctx, ifupLimit)
	defer cancel()
	// Before: should this be killed, the next device of the name is known not to
	// be the one that ifupdown has in mind, and that one is taken down first.
	if !was {
		if err := h.state().setConfigured(link, e.Table); err != nil {
			return err
		}
	}
	if err := h.Run(ctx, "ifup", link.Name); err != nil && was {
		return fmt.Errorf("ifup %s: %w", link.Name, err)
	} else if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), ifupLimit)
		defer cancel()
		return errors.Join(fmt.Errorf("ifup %s: %w", link.Name, err), h.takeDown(undo, link.Name))
	}
	if !was {
		h.logf(link.Name, "ifup done: %s, table %d", e.ID, e.Table)
	}
	return nil
}

// Remove takes down an ENI that was detached, or that somebody wants down. The
// files stay.
func (h *Host) Remove(ctx context.Context, name string) error { return h.remove(ctx, name, false) }

// RemoveIfGone is Remove for udev: between its "remove" and the work, the ENI
// may have been plugged in again and brought up.
func (h *Host) RemoveIfGone(ctx context.Context, name string) error { return h.remove(ctx, name, true) }

func (h *Host) remove(ctx context.Context, name string, ifGone bool) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	if err := h.managed(name); err != nil {
		return err
	}
	unlock, err := h.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if ifGone {
		links, err := h.Kernel.Links()
		if err != nil {
			return fmt.Errorf("cannot ask the kernel: %w", err)
		}
		if l, ok := linkNamed(links, name); ok && h.state().configured(l) {
			return nil
		}
	}
	if ours, err := h.ours(name); err != nil || !ours {
		return err
	}
	e, _, err := h.state().facts(name)
	if err != nil {
		h.logf(name, "%v", err)
	}
	if e.Primary {
		return &PrimaryError{name}
	}
	return h.takeDown(ctx, name)
}

// takeDown runs ifdown, and then takes away what ifdown may have left: with
// the device gone no hook of the DHCP client runs.
func (h *Host) takeDown(ctx context.Context, name string) error {
	cfg, err := h.state().cfg(name)
	if err != nil {
		return err
	}
	if e, ok, err := h.state().facts(name); err == nil && ok && e.Mark != 0 {
		if err := h.Kernel.Apply(dropFlows{uint32(e.Mark), uint32(e.MarkMask)}); err != nil {
			h.logf(name, "cannot end its connections: %v", err)
		}
	}
	if cfg != nil {
		err = h.Run(ctx, "ifdown", "--force", name)
		if err != nil {
			err = fmt.Errorf("ifdown --force %s: %w", name, err)
		} else {
			h.logf(name, "ifdown done")
		}
	}
	err = errors.Join(err, h.takeRules(ctx, name, "removed"))
	if err == nil {
		// Not before: it tells the number of the rules, and that ifupdown counts
		// the interface as up.
		err = h.state().clearConfigured(name)
	}
	return errors.Join(err, h.dockerAgain(ctx))
}
