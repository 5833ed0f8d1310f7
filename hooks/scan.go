package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"ec2net/facts"
	"ec2net/plan"
)

// Scan asks udev for another "add" of every attached ENI that is not configured, whose
// name was configured for another device, or that lacks ip rules or routes; and for
// another "remove" of every ENI that is gone and was not taken down. It puts marks back.
func (h *Host) Scan(ctx context.Context) error {
	err := h.scanAll(ctx)
	if _, marks := h.keepMarks(ctx, marking{restored: true}); marks != nil {
		h.Log.Warn("scan", "%v", marks) // the ENIs that were found come up all the same
	}
	return err
}

func (h *Host) scanAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseIMDS)
	defer cancel()
	l, err := h.look(news{})
	if err != nil {
		return err
	}
	// Known ENIs need no answer of IMDS.
	known := l.knownMACs()
	failed := h.scan(ctx, l, known)
	for _, u := range l.gone() {
		failed = errors.Join(failed, h.finishOff(u))
	}
	if err := h.checkWay(l); err != nil {
		h.Log.Warn("scan", "%v; looked only at known ENIs", err)
		return failed
	}
	macs, err := h.Source.MACs(ctx)
	if err != nil {
		h.Log.Warn("scan", "%v; looked only at known ENIs", err)
		return failed
	}
	unknown := slices.DeleteFunc(macs, func(mac facts.MAC) bool { return slices.Contains(known, mac) })
	if len(unknown) == 0 {
		return failed
	}
	if l, err = h.look(news{}); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, h.scan(ctx, l, unknown))
}

// knownMACs returns the MACs of the known ENIs, except for those that are left alone.
func (l *look) knownMACs() []facts.MAC {
	macs, _ := l.MACs()
	return macs
}

// unfinished is an interface that the events of udev have left unfinished: one was lost or
// came too early, or what it started has failed.
type unfinished struct {
	name string
	// gone says that the device is not there any more, lost that the ENI is up without its
	// DHCP client and the leased address.
	gone, lost bool
	// what says what is the matter, for the log.
	what string
}

// scan asks udev for another "add" of each of these ENIs that lacks something.
func (h *Host) scan(ctx context.Context, l *look, macs []facts.MAC) error {
	changes, _, _ := h.changes(ctx, l)
	found, failed := h.attached(l, macs, changes)
	for _, u := range found {
		failed = errors.Join(failed, h.finishOff(u))
	}
	return failed
}

// attached returns those of some ENIs that are attached and lack something: they are not
// configured, have lost their DHCP client, or lack what a change would add.
func (h *Host) attached(l *look, macs []facts.MAC, changes []plan.Change) (found []unfinished, failed error) {
	for _, link := range plan.ENIsAmong(l.State.Links, macs) {
		what, err := h.lacking(l, link, changes)
		u := unfinished{name: link.Name, what: what}
		if err == nil && what != notConfigured {
			u.lost, err = h.lostClient(l, link)
		}
		if u.lost {
			u.what = withoutClient
		}
		failed = errors.Join(failed, err)
		if u.what != "" {
			found = append(found, u)
		}
	}
	return found, failed
}

// What may be the matter with an ENI.
const (
	notConfigured = "not configured"
	withoutClient = "without its DHCP client and the leased address"
)

// lostClient reports whether an ENI that ec2net has brought up is up without the leased
// address and without a DHCP client: the client was killed, before it had a lease or later,
// nobody has renewed the lease, and the kernel has removed the address; or ifdown has ended
// both, and somebody has set the link up again.
func (h *Host) lostClient(l *look, link plan.Link) (bool, error) {
	k, _ := l.Of(link.Name)
	lost := k.Lease.EndedOf(link) || k.Lease.Held(link) && !l.State.Has(link.Index, k.Lease.Addr) ||
		!k.Lease.Of(link) && !l.hasSubnet(link)
	if k.Left != "" || !link.Up || !k.Note.Of(link) || !lost {
		return false, nil
	}
	health, err := h.stack(l.stackOf(link.Name)).Health(l.State, link)
	return err == nil && health.NoClient, err
}

// hasSubnet reports whether a link has an address with the length of a subnet, which ec2net
// never gives: that of the DHCP client.
func (l *look) hasSubnet(link plan.Link) bool {
	return slices.ContainsFunc(l.State.Addrs, func(a plan.Addr) bool {
		return a.Link == link.Index && !a.Prefix.IsSingleIP()
	})
}

// gone returns the interfaces that were brought up, of which the device has gone.
func (l *look) gone() (found []unfinished) {
	for _, k := range l.Known {
		if _, there := l.State.LinkNamed(k.Name); !there && k.Note != (plan.Note{}) && l.unread[k.Name] == nil {
			found = append(found, unfinished{name: k.Name, gone: true, what: "is gone, and was not taken down"})
		}
	}
	return found
}

// finishOff has the event of udev's happen again.
func (h *Host) finishOff(u unfinished) error {
	if u.gone {
		if err := h.Unplug(u.name); err != nil {
			return fmt.Errorf("cannot have %s taken down: %w", u.name, err)
		}
		h.Log.Info(u.name, "%s: taking it down", u.what)
		return nil
	}
	if err := h.Replay(u.name); err != nil {
		return fmt.Errorf("cannot ask udev to add %s: %w", u.name, err)
	}
	h.Log.Info(u.name, "is attached and %s: asked udev to add it", u.what)
	return nil
}

// lacking says what an attached ENI lacks; nothing if it is the primary or left alone.
func (h *Host) lacking(l *look, link plan.Link, changes []plan.Change) (string, error) {
	if link.MAC == l.Primary() {
		return "", nil
	}
	k, known := l.Of(link.Name)
	if !known {
		// ec2net remembers nothing of the name, but its cfg file may tell the owner.
		r, err := h.memory().recall(link.Name)
		if err != nil {
			return "", err
		}
		k, _ = r.Of(link.Name)
		r.readStanza(h, l.kind, &k)
		l.unread[link.Name] = r.unread[link.Name]
	}
	switch {
	case l.unread[link.Name] != nil:
		return "", fmt.Errorf("cannot tell who configures %s: %w", link.Name, l.unread[link.Name])
	case k.Left != "", l.leftAlone(link):
		return "", nil
	case !link.Up || !k.Note.Of(link):
		return notConfigured, nil
	}
	if k.Lease.EndedOf(link) && l.hasSubnet(link) {
		return "lacks ip rules", nil
	}
	return lackingOf(link.Name, changes), nil
}

// lackingOf says what an ENI that is up lacks, by the changes that it needs.
func lackingOf(name string, changes []plan.Change) (what string) {
	for _, c := range changes {
		if c.Of() != name {
			continue
		}
		switch c.(type) {
		case plan.AddRule:
			return "lacks ip rules"
		case plan.AddRoute:
			what = "lacks routes"
		case plan.SetLoose:
			what = cmp.Or(what, "has a strict rp_filter")
		case plan.DisableIPv6:
			what = cmp.Or(what, "has IPv6 on")
		}
	}
	return what
}
