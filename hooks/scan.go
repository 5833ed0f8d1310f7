package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"

	"ec2net/facts"
)

// Scan sends udev "add" again for every ENI that is attached but not
// configured, or configured for another device than the one that is there.
func (h *Host) Scan(ctx context.Context) error {
	links, err := h.Kernel.Links()
	if err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", err)
	}
	known, err := h.state().known(facts.ENI{})
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, leaseIMDS)
	defer cancel()
	macs, asked := h.Source.MACs(asking)
	if asked != nil {
		h.Log(fmt.Sprintf("scan: %v; going on with the ENIs that are known", asked))
	}
	known.MACs = append(known.MACs, macs...)
	var failed error
	for _, l := range known.links(links) {
		// ifdown, also that of a networking.service that restarts, leaves the
		// note that the interface was brought up.
		if l.MAC == known.Primary || (l.Up && h.state().configured(l)) || h.managed(l.Name) != nil {
			continue
		}
		if err := os.WriteFile("/sys/class/net/"+l.Name+"/uevent", []byte("add"), 0); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot have udev add %s: %w", l.Name, err))
			continue
		}
		h.logf(l.Name, "is attached and not configured: asked udev to add it")
	}
	return failed
}
