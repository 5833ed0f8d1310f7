package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/hooks"
	"ec2net/kernel"
)

var factsCommand = command{
	name:  "facts",
	args:  "IFACE...",
	short: "print the facts of an ENI as JSON",
	long: `Asks IMDS for the ENI behind each interface and prints it as JSON: one as an
object, several as one object a line. Templates see these fields, and --facts reads
them; "ec2net help facts-format" describes them.

If IMDS does not answer, facts fails, and names the file of the remembered facts.`,
	examples: `ec2net facts eth1
ec2net facts eth1 >eth1.json
ec2net facts eth1 --facts eth1.json --base 10000`,
	settings: []string{"base", "mark-mask", "timeout", "imds-endpoint", "imds-endpoint-mode"},
	prepare: func(flags *pflag.FlagSet) action {
		file := factsFlag(flags)
		return func(inv *invocation) error {
			s, err := inv.settings()
			if err != nil {
				return err
			}
			ctx, cancel := s.deadline()
			defer cancel()
			enis, err := inv.wantedENIs(ctx, s, *file)
			if err != nil {
				return err
			}
			return system(facts.Encode(inv.stdout, enis))
		}
	},
}

func factsFlag(flags *pflag.FlagSet) *string {
	file := new(string)
	flags.Var(&textFlag{file, "FILE", []string{":files"}}, "facts", "read the facts from this file instead of IMDS; - is standard input. This needs no EC2")
	return file
}

// wantedENIs gets the facts of the interfaces that the arguments name: from the
// file of --facts, else from IMDS.
func (inv *invocation) wantedENIs(ctx context.Context, s settings, file string) ([]facts.ENI, error) {
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
		enis, err = inv.factsFromFile(ctx, s, file)
	} else {
		enis, err = inv.factsFromIMDS(ctx, s)
	}
	if err == nil {
		err = fault.As(fault.Facts, facts.Distinct(enis))
	}
	return enis, err
}

// factsFromFile reads a file. It may be a pipe that stays silent, so this waits no
// longer than ctx.
func (inv *invocation) factsFromFile(ctx context.Context, s settings, file string) ([]facts.ENI, error) {
	type result struct {
		enis []facts.ENI
		err  error
	}
	done := make(chan result, 1)
	go func() {
		enis, err := inv.readFacts(s, file)
		done <- result{enis, err}
	}()
	select {
	case r := <-done:
		return r.enis, r.err
	case <-ctx.Done():
		return nil, fault.As(fault.Facts, fmt.Errorf("facts in %s: not there in time", factsFrom(file)))
	}
}

// factsFrom names the file of --facts for people.
func factsFrom(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

func (inv *invocation) readFacts(s settings, file string) ([]facts.ENI, error) {
	r := inv.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.As(fault.Facts, fmt.Errorf("cannot read the facts: %w", err))
		}
		defer f.Close()
		r = f
	}
	return pick(r, factsFrom(file), inv.args, s.numbers)
}

// pick reads facts and returns those of the wanted names, in that order.
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
			return fail(fmt.Errorf("none of %s, only of %s", name, strings.Join(names, ", ")), "")
		}
		enis = append(enis, e)
	}
	return enis, nil
}

func (inv *invocation) factsFromIMDS(ctx context.Context, s settings) ([]facts.ENI, error) {
	macs := make([]facts.MAC, len(inv.args))
	for i, name := range inv.args {
		var err error
		if macs[i], err = kernel.MAC(name); err != nil {
			var gone *kernel.GoneError
			var other *kernel.OtherNameError
			if errors.As(err, &gone) {
				return nil, err
			} else if errors.As(err, &other) {
				return nil, usage(err)
			}
			return nil, fault.As(fault.Facts, err)
		}
	}
	imds, err := facts.NewIMDS(s.imds)
	if err != nil {
		return nil, usage(err)
	}
	k, err := kernel.Open()
	if err != nil {
		return nil, system(fmt.Errorf("cannot ask the kernel: %w", err))
	}
	defer k.Close()
	noWay := hooks.CheckWay(k, s.imds.Address())
	ctx, cancel := context.WithTimeout(ctx, s.imdsShare())
	defer cancel()
	var enis []facts.ENI
	for i, name := range inv.args {
		e, err := facts.ENI{}, noWay
		if err == nil {
			e, err = imds.ENI(ctx, name, macs[i], s.numbers)
			err = fault.As(fault.Facts, err)
		}
		if err != nil {
			e, err = inv.withoutIMDS(err, name, macs[i], s.numbers)
		}
		if err != nil {
			return nil, err
		}
		enis = append(enis, e)
	}
	return enis, nil
}
