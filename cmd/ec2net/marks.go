package main

import (
	"context"

	"ec2net/facts"
	"ec2net/hooks"
)

var marksCommand = command{
	name:  "marks",
	args:  "[IFACE]",
	short: "route the answers of containers and guests by the ENI of the request",
	long: `With ifupdown an ENI's cfg file calls it. It makes the marks what they should be, in iptables'
mangle table: what comes in by an ENI for an address of this machine, and its
connection, get the ENI's mark, and answers get the mark of their connection, from
whatever bridge they come. If the machine forwards no packets, there are none: see
EC2NET_MARKS. IFACE is an ENI that is coming up.`,
	examples: "ec2net marks\nec2net marks eth1",
	settings: hostSettings,
	prepare: noFlags(func(inv *invocation) error {
		name := ""
		switch len(inv.args) {
		case 0:
		case 1:
			if name = inv.args[0]; facts.CheckName(name) != nil {
				return usage(facts.CheckName(name))
			}
		default:
			return usageError("marks takes "+inv.command.args, "ec2net help marks")
		}
		return inv.onHost(leaseLimit, job{"marks", func(ctx context.Context, h *hooks.Host) error {
			if name == "" {
				return h.MendMarks(ctx)
			}
			return h.KeepMarks(ctx, name)
		}})
	}),
}
