package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/iprule"
	"ec2net/render"
)

// PrimaryError says that an interface is the primary ENI's.
type PrimaryError struct{ Name string }

func (e *PrimaryError) Error() string {
	return fmt.Sprintf("%s is the primary ENI, which ec2net never takes up or down", e.Name)
}

// Status is that of what another try does not change.
func (*PrimaryError) Status() fault.Status { return fault.NoRetry }

// Add configures an ENI that was attached: facts, files, group, ifup. With
// files for this very ENI it does not wait for IMDS.
func (h *Host) Add(ctx context.Context, name string) error {
	if err := facts.CheckName(name); err != nil {
		return err
	}
	if err := h.managed(name); err != nil {
		return err
	}
	err := h.addLocked(ctx, name)
	h.withdraw(ctx, name)
	return err
}

func (h *Host) addLocked(ctx context.Context, name string) error {
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
		// While IMDS or ifup was waited for, another device may have got the name.
		err = h.addDevice(ctx, link, links)
		switch {
		case errors.Is(err, errReplaced):
			h.logf(name, "%v: beginning again", err)
		case errors.Is(err, errNotYet), errors.Is(err, errTakenDown): // by somebody who knows why
			h.logf(name, "%v", err)
			return nil
		default:
			return err
		}
	}
}

var (
	errReplaced  = errors.New("another device has the name now")
	errTakenDown = errors.New("it was taken down meanwhile")
	errNotYet    = errors.New("the primary ENI has no address yet: nothing done until it has")
)

// device is what is about to be brought up.
type device struct {
	link  Link
	links []Link     // all of the machine
	last  facts.ENI  // what IMDS said last of this very device
	known bool       // it has said something
	moved *facts.ENI // or has, when the device had another name
	up    bool       // ec2net has brought this device up, and it is up
}

func (h *Host) addDevice(ctx context.Context, link Link, links []Link) error {
	d, err := h.mayAdd(ctx, link, links)
	if err != nil {
		return err
	}
	e, err := h.factsOf(ctx, d)
	if err != nil {
		return err
	}
	if err := h.fits(e, links); err != nil {
		return err
	}
	if !d.known {
		// Meanwhile somebody may have taken it.
		if err := h.isFree(ctx, d); err != nil {
			return err
		}
	}
	return h.bringUp(ctx, d, e)
}

// mayAdd says whether a device is ec2net's to bring up, and now.
func (h *Host) mayAdd(ctx context.Context, link Link, links []Link) (device, error) {
	d := device{link: link, links: links, up: link.Up && h.state().configured(link)}
	var err error
	if d.last, d.known, err = h.lastFacts(link); err != nil {
		h.logf(link.Name, "%v", err)
	}
	if !d.known {
		d.moved = h.factsElsewhere(link)
	}
	known, err := h.known(d.last)
	if err != nil {
		return d, err
	}
	if known.Primary == link.MAC {
		return d, &PrimaryError{link.Name}
	}
	if up, err := h.primaryIsUp(known, links); err != nil {
		return d, err
	} else if !up {
		return d, errNotYet
	}
	return d, h.isFree(ctx, d)
}

// isFree says whether nobody else is to configure a device.
func (h *Host) isFree(ctx context.Context, d device) error {
	if err := h.managed(d.link.Name); err != nil || d.up {
		return err
	}
	return h.checkGuest(ctx, d.link)
}

// factsOf are those that IMDS said last, if it has said any: then it is not
// waited for, but asked once for what hangs on an ENI's place. Of a device that
// had another name when it said them, it is asked first.
func (h *Host) factsOf(ctx context.Context, d device) (facts.ENI, error) {
	if !d.known {
		e, err := h.askUntilComplete(ctx, d.link)
		var imds *facts.IMDSError
		if errors.As(err, &imds) && d.moved != nil {
			h.logf(d.link.Name, "%v; going on with what IMDS said last, when it had another name", err)
			return *d.moved, nil
		}
		return e, err
	}
	if facts.NumberedByName(d.link.Name) {
		return d.last, nil
	}
	if e, err := h.ask(ctx, d.link, netip.Addr{}, oneIMDS, nil); err == nil {
		return e, nil
	}
	return d.last, nil
}

// fits says whether an ENI can be configured on this machine.
func (h *Host) fits(e facts.ENI, links []Link) error {
	if e.Primary {
		return &PrimaryError{e.Name}
	}
	if why := render.Nothing(e); why != "" {
		return &UnmanagedError{e.Name, why}
	}
	if err := h.distinct(e, links); err != nil {
		return err
	}
	return h.checkSourced(e.Name)
}

// bringUp writes the files of an ENI and has ifup use them. What goes wrong and
// does not keep the ENI from coming up is said at the end.
func (h *Host) bringUp(ctx context.Context, d device, e facts.ENI) error {
	if err := h.downIfStale(ctx, d.link); err != nil {
		return err
	}
	var trouble error
	if err := h.writeFiles(ctx, e); err != nil {
		cfg, _ := h.state().cfg(e.Name)
		if cfg == nil || !d.known || e.Table() != d.last.Table() {
			return err
		}
		h.logf(e.Name, "going on with the files that are there")
		trouble = err
	}
	if err := h.joinGroup(ctx, e); err != nil {
		return err
	}
	// Before the first packet that comes in is marked.
	trouble = errors.Join(trouble, h.dockerAgain(ctx, e))
	if err := h.ifup(ctx, d, e); err != nil {
		return errors.Join(err, trouble)
	}
	if !d.up {
		return errors.Join(trouble, h.withoutHook(ctx, d.link))
	}
	// Ifup had nothing to do, and no hook was called.
	lease, err := h.leaseNow(d.link, e, "hotplug")
	if err == nil {
		err = h.makeCurrent(ctx, lease)
	}
	return errors.Join(trouble, err)
}

// withdraw makes the ENIs current that are up and had an address of this one, as
// far as anybody knows: EC2 has moved it, and their rules may come first. What
// goes wrong with them is not this one's trouble. It is called without this one's
// lock, since it takes theirs.
func (h *Host) withdraw(ctx context.Context, name string) {
	e, known, err := h.state().facts(name)
	if _, up := h.state().broughtUp(name); err != nil || !known || !up {
		return
	}
	all, err := h.state().all()
	if err != nil {
		h.logf(name, "%v", err)
	}
	for _, other := range all {
		had := func(a netip.Addr) bool { return slices.Contains(other.IPv4, a) }
		if other.MAC == e.MAC || !slices.ContainsFunc(e.IPv4, had) {
			continue
		}
		if err := h.reconsider(ctx, other, "an address has moved to "+name); err != nil {
			h.logf(other.Name, "%v", err)
		}
	}
}

// reconsider makes an ENI current, if it is up.
func (h *Host) reconsider(ctx context.Context, e facts.ENI, why string) error {
	unlock, err := h.lock(ctx, e.Name)
	if err != nil {
		return err
	}
	defer unlock()
	var left *UnmanagedError
	if err := h.managed(e.Name); errors.As(err, &left) {
		return nil
	} else if err != nil {
		return err
	}
	link, _, err := h.link(e.Name)
	var gone *GoneError
	if errors.As(err, &gone) || (err == nil && (link.MAC != e.MAC || !link.Up || !(e.Primary || h.state().configured(link)))) {
		return nil
	} else if err != nil {
		return err
	}
	lease, err := h.leaseNow(link, e, why)
	if err != nil {
		return err
	}
	return h.makeCurrent(ctx, lease)
}

// leaseNow is the lease that an interface seems to have, where no DHCP client says
// so: its first address, unless it has another one of its subnet that is not
// ec2net's, which gives single ones.
func (h *Host) leaseNow(link Link, e facts.ENI, why string) (Lease, error) {
	l := Lease{Interface: e.Name, Reason: why, Address: e.IPv4[0]}
	addrs, err := h.Kernel.Addrs()
	if err != nil {
		return l, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	for _, a := range addrs {
		if a.LinkIndex == link.Index && !a.Prefix.IsSingleIP() && e.Subnet.Contains(a.Prefix.Addr()) {
			l.Address = a.Prefix.Addr()
		}
	}
	return l, nil
}

// withoutHook makes the rules if ifup has not led to all of them: its
// configuration has no DHCP client, the client has no hook, or that was killed.
func (h *Host) withoutHook(ctx context.Context, link Link) error {
	e, lacking, err := h.lacksRules(link)
	if err != nil || !lacking {
		return err
	}
	h.logf(link.Name, "ifup has not led to all ip rules: making them now")
	l, err := h.leaseNow(link, e, "hotplug")
	if err != nil {
		return err
	}
	_, err = h.apply(ctx, l, nil, Wanted{ENI: e, Own: e.IPv4, KeepLive: true, Attached: &link})
	return err
}

// lacksRules says whether an ENI that was brought up has not all the rules that
// were rendered for it last.
func (h *Host) lacksRules(link Link) (e facts.ENI, lacking bool, err error) {
	e, ok, err := h.lastFacts(link)
	if up, isUp := h.state().broughtUp(link.Name); err != nil || !ok || !e.Routed || !e.HasIPv4() || !isUp || up.table != e.Table() {
		return e, false, err
	}
	have, err := h.Kernel.Rules()
	if err != nil {
		return e, false, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	return e, slices.ContainsFunc(withLease(h.lastRules(e), e, e.IPv4[0]), func(r iprule.Rule) bool {
		return !slices.ContainsFunc(have, func(k KernelRule) bool { return !k.Odd && k.Rule == r })
	}), nil
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

// distinct refuses an ENI whose numbers another one, attached now, has. An
// address that both have has moved since the other was asked for.
func (h *Host) distinct(e facts.ENI, links []Link) error {
	all, err := h.state().all()
	if err != nil {
		return err
	}
	present := []facts.ENI{e}
	for _, other := range all {
		if l, ok := linkNamed(links, other.Name); ok && l.MAC == other.MAC && other.Name != e.Name {
			other.IPv4 = nil
			present = append(present, other)
		}
	}
	return facts.Distinct(present)
}

// writeFiles renders all files of an ENI before it writes the first.
func (h *Host) writeFiles(ctx context.Context, e facts.ENI) error {
	files, err := h.render(ctx, e)
	if err != nil {
		return err
	}
	if err := h.write(e.Name, files); err != nil {
		return err
	}
	_, err = h.state().keep(e)
	return err
}

// write writes rendered files, and says which are not as they were.
func (h *Host) write(name string, files []render.File) error {
	wrote, err := h.Tree.WriteAll(Contents(files))
	for _, path := range wrote {
		h.logf(name, "wrote %s", path)
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

// joinGroup puts the ENIs into their interface group before this one gets an
// address: the group rule, if it is there already, relies on it.
func (h *Host) joinGroup(ctx context.Context, e facts.ENI) error {
	unlock, err := h.lock(ctx, "kernel")
	if err != nil {
		return err
	}
	defer unlock()
	known, err := h.known(e)
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
