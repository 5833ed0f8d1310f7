package main

import (
	"context"
	"slices"
	"strings"

	"ec2net/facts"
	"ec2net/hooks"
)

var watchCommand = command{
	name:  "watch",
	args:  "",
	short: "put back what other programs take away, and ask IMDS between leases",
	long: `Runs until it is ended; ec2net-watch.service runs it. Whenever the kernel's network
changes, it puts back what ec2net has made and another program has taken away. If
another program undoes a change again and again, watch leaves it alone for a while,
and a warning says so. It asks IMDS at the intervals of EC2NET_REFRESH. If an ENI is
attached and not configured, watch sends udev "add" again. It reads settings and
templates anew each time. Without watch everything works at the events of udev, docker
and the DHCP clients that have a hook.`,
	examples: "ec2net watch --refresh 5m",
	settings: append(slices.Clip(hostSettings), "refresh"),
	prepare: noFlags(func(inv *invocation) error {
		return inv.onHost(noLimit, job{"watch", func(ctx context.Context, h *hooks.Host) error {
			return hooks.Watch(ctx, inv.renewed(h))
		}})
	}),
}

// renewed returns a function that gives a host the settings and templates of now; those
// of before while they cannot be read. It keeps the connections: IMDS is asked for no
// other token.
func (inv *invocation) renewed(h *hooks.Host) func() *hooks.Host {
	said := inv.warned
	sources := make(map[facts.Endpoint]*facts.IMDS)
	return func() *hooks.Host {
		s, warnings, err := inv.settingsOnHost(h.Tree)
		if err != nil {
			warnings = append(warnings, explained(err))
		}
		if now := strings.Join(warnings, "; "); now != said {
			if said = now; said != "" {
				inv.warn(said)
			}
		}
		if err == nil && sources[s.imds] == nil {
			sources[s.imds], err = facts.NewIMDS(s.imds)
		}
		if err != nil {
			return h
		}
		now := *h
		now.Source = sources[s.imds]
		s.apply(&now)
		h = &now
		return h
	}
}
