package main

import (
	"context"
	"time"

	"ec2net/facts"
	"ec2net/hooks"
	"ec2net/program"
)

// dockerWait bounds the wait for docker0 after an ENI has come up.
const dockerWait = time.Minute

var dockerCommand = command{
	name:  "docker",
	args:  "up | down | wait IFACE",
	short: "put docker0 into the tables of the ENIs",
	long:  "ec2net-docker.service, and under upstart the job docker-finish, call up and down.",
	words: []item{
		{"up", `Puts docker0's subnet into every ENI's table, and makes the marks: see "ec2net help
marks". Called again, it applies what has changed.`},
		{"down", "Takes docker0's subnet out of the tables. The marks stay, for other bridges."},
		{"wait", `With ifupdown an ENI's cfg file calls it: puts docker0's subnet into the ENI's table, now or, in
the background, as soon as docker0 appears, for a minute at most. Without docker it
does nothing.`},
	},
	examples: `ec2net docker up
ec2net docker wait eth1`,
	settings: hostSettings,
	prepare: noFlags(func(inv *invocation) error {
		sub := ""
		if len(inv.args) > 0 {
			sub = inv.args[0]
		}
		switch {
		case sub == "up" && len(inv.args) == 1:
			return inv.onHost(hotplugLimit, job{"docker0", func(ctx context.Context, h *hooks.Host) error { return h.DockerUp(ctx) }})
		case sub == "down" && len(inv.args) == 1:
			return inv.onHost(hotplugLimit, job{"docker0", func(ctx context.Context, h *hooks.Host) error { return h.DockerDown(ctx) }})
		case (sub == "wait" || sub == waitNow) && len(inv.args) == 2:
			if err := facts.CheckName(inv.args[1]); err != nil {
				return usage(err)
			}
			return inv.onHost(dockerWait, job{inv.args[1], func(ctx context.Context, h *hooks.Host) error {
				return inv.dockerWait(ctx, h, sub, inv.args[1])
			}})
		}
		return usageError("docker takes "+inv.command.args, "ec2net help docker")
	}),
}

// waitNow is the argument of the background process.
const waitNow = "wait-now"

func (inv *invocation) dockerWait(ctx context.Context, h *hooks.Host, sub, name string) error {
	there, err := h.DockerThere()
	if err != nil {
		return err
	}
	if there || sub == waitNow {
		return h.DockerWait(ctx, name)
	}
	if _, err := program.Find("dockerd"); err != nil {
		return nil // no docker, nothing to wait for
	}
	return background("", "docker", waitNow, name)
}
