package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ec2net/facts"
)

// Scan sends udev "add" again for every ENI that is attached but not
// configured, configured for another device than the one that is there, or
// without all of its ip rules.
func (h *Host) Scan(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, leaseIMDS)
	defer cancel()
	known, err := h.known()
	if err != nil {
		return err
	}
	// What is known needs no answer of IMDS's.
	failed := h.scan(known.MACs)
	macs, err := h.attached(asking)
	if err != nil {
		h.Log(fmt.Sprintf("scan: %v; only the ENIs that are known were looked at", err))
		return failed
	}
	unknown := slices.DeleteFunc(macs, func(mac facts.MAC) bool { return slices.Contains(known.MACs, mac) })
	return errors.Join(failed, h.scan(unknown))
}

// attached are the MACs that IMDS has, if the way there is IMDS's.
func (h *Host) attached(ctx context.Context) ([]facts.MAC, error) {
	if err := h.checkWay(nil); err != nil {
		return nil, err
	}
	return h.Source.MACs(ctx)
}

func (h *Host) scan(macs []facts.MAC) error {
	links, err := h.Kernel.Links()
	if err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", err)
	}
	known, err := h.known()
	if err != nil {
		return err
	}
	var failed error
	for _, l := range (Known{MACs: macs}).links(links) {
		// ifdown, also that of a networking.service that restarts, leaves the
		// note that the interface was brought up.
		if l.MAC == known.Primary || h.managed(l.Name) != nil {
			continue
		}
		what := "not configured"
		if l.Up && h.state().configured(l) {
			_, lacking, err := h.lacksRules(l)
			failed = errors.Join(failed, err)
			if !lacking {
				continue
			}
			what = "lacks ip rules"
		}
		if err := h.Replay(l.Name); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot have udev add %s: %w", l.Name, err))
			continue
		}
		h.logf(l.Name, "is attached and %s: asked udev to add it", what)
	}
	return failed
}
