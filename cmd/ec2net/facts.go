package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/hooks"
)

var factsCommand = command{
	name:  "facts",
	args:  "IFACE...",
	short: "print what is known of an ENI, as JSON",
	long: `Asks IMDS for the ENI behind each interface and prints it: one as an object,
several as one object a line. This is what the templates see, and the format
that --facts reads. "ec2net help facts-format" describes the fields.`,
	examples: `ec2net facts eth1
ec2net facts eth1 >eth1.json
ec2net facts eth1 --facts eth1.json --base 10000`,
	flags: func(inv *invocation) {
		inv.factsFlags()
		inv.settingsFlags()
	},
	run: func(inv *invocation) error {
		if err := inv.loadSettings(); err != nil {
			return err
		}
		ctx, cancel := inv.deadline()
		defer cancel()
		enis, err := inv.wantedENIs(ctx)
		if err != nil {
			return err
		}
		return system(facts.Encode(inv.stdout, enis))
	},
}

func (inv *invocation) factsFlags() {
	inv.flags.StringVar(&inv.factsFile, "facts", "", "take the facts from this file, - for stdin, in place of IMDS")
}

// wantedENIs gets the facts of the interfaces that the arguments name.
func (inv *invocation) wantedENIs(ctx context.Context) ([]facts.ENI, error) {
	if len(inv.args) == 0 {
		return nil, usageError("which interface?", "ec2net help "+inv.command.name)
	}
	for i, name := range inv.args {
		if err := facts.CheckName(name); err != nil {
			return nil, usage(err)
		}
		for _, other := range inv.args[:i] {
			if name == other {
				return nil, usage(fmt.Errorf("%s is named twice", name))
			}
		}
	}
	var enis []facts.ENI
	var err error
	if inv.flags.Changed("facts") {
		enis, err = inv.factsFromFile(ctx)
	} else {
		enis, err = inv.factsFromIMDS(ctx)
	}
	if err == nil {
		err = fault.As(fault.Facts, facts.Distinct(enis))
	}
	return enis, err
}

// factsFromFile reads a file, or a pipe that may never say anything: so it
// does not wait longer than ctx.
func (inv *invocation) factsFromFile(ctx context.Context) ([]facts.ENI, error) {
	type result struct {
		enis []facts.ENI
		err  error
	}
	done := make(chan result, 1)
	go func() {
		enis, err := inv.readFacts()
		done <- result{enis, err}
	}()
	select {
	case r := <-done:
		return r.enis, r.err
	case <-ctx.Done():
		return nil, fault.As(fault.Facts, fmt.Errorf("facts in %s: not there in time", inv.factsFrom()))
	}
}

// factsFrom is --facts for people.
func (inv *invocation) factsFrom() string {
	if inv.factsFile == "-" {
		return "standard input"
	}
	return inv.factsFile
}

func (inv *invocation) readFacts() ([]facts.ENI, error) {
	r := inv.stdin
	if inv.factsFile != "-" {
		f, err := os.Open(inv.factsFile)
		if err != nil {
			return nil, fault.As(fault.Facts, fmt.Errorf("cannot read the facts: %w", err))
		}
		defer f.Close()
		r = f
	}
	return pick(r, inv.factsFrom(), inv.args, inv.settings.numbers)
}

// pick reads facts and takes those of the wanted names, in that order.
func pick(r io.Reader, where string, wanted []string, n facts.Numbers) ([]facts.ENI, error) {
	fail := func(err error, hint string) ([]facts.ENI, error) {
		return nil, &fault.Error{Kind: fault.Facts, Err: fmt.Errorf("facts in %s: %w", where, err), Try: hint}
	}
	all, err := facts.Decode(r, n)
	if err != nil {
		return fail(err, `"ec2net help facts-format" describes the fields`)
	}
	if err := facts.Distinct(all); err != nil {
		return fail(err, "")
	}
	byName := make(map[string]facts.ENI)
	var names []string
	for _, e := range all {
		byName[e.Name] = e
		names = append(names, e.Name)
	}
	var enis []facts.ENI
	for _, name := range wanted {
		e, ok := byName[name]
		if !ok {
			return fail(fmt.Errorf("they are of %s, not of %s", strings.Join(names, ", "), name), "")
		}
		enis = append(enis, e)
	}
	return enis, nil
}

func (inv *invocation) factsFromIMDS(ctx context.Context) ([]facts.ENI, error) {
	macs := make([]facts.MAC, len(inv.args))
	for i, name := range inv.args {
		var err error
		if macs[i], err = hooks.MAC(name); err != nil {
			var gone *hooks.GoneError
			var other *hooks.OtherNameError
			if errors.As(err, &gone) {
				return nil, err
			} else if errors.As(err, &other) {
				return nil, usage(err)
			}
			return nil, fault.As(fault.Facts, err)
		}
	}
	imds, err := facts.NewIMDS(inv.settings.imds)
	if err != nil {
		return nil, usage(err)
	}
	kernel, err := hooks.OpenNetlink()
	if err != nil {
		return nil, system(fmt.Errorf("cannot ask the kernel: %w", err))
	}
	defer kernel.Close()
	if err := hooks.CheckWay(kernel, inv.settings.imds.Address()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, inv.imdsShare())
	defer cancel()
	var enis []facts.ENI
	for i, name := range inv.args {
		e, err := imds.ENI(ctx, name, macs[i], inv.settings.numbers)
		if err != nil {
			return nil, fault.As(fault.Facts, fmt.Errorf("no facts of %s: %w", name, err))
		}
		enis = append(enis, e)
	}
	return enis, nil
}
