// Package mangle looks at ec2net's chains in iptables' mangle table, makes them and
// removes them. It runs iptables-save(8), iptables-restore(8) and iptables(8).
package mangle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Table is the mangle table of the back end in use, which update-alternatives(8) chooses.
type Table struct {
	// Run runs a program and waits for it. Output also returns what it prints.
	Run    func(ctx context.Context, program string, args ...string) error
	Output func(ctx context.Context, program string, args ...string) ([]byte, error)
	// Note keeps the text of a Made, for ParseMade; empty if there are no chains.
	Note func(text string) error
	// Info logs a line about an interface.
	Info func(iface, format string, args ...any)

	program string // empty: iptables
}

// lockWait is how many seconds iptables waits for its lock, which another program may
// hold.
const lockWait = "10"

// Alone are the arguments of iptables-save for the mangle table alone. With them
// iptables-legacy makes the table if there is none.
var Alone = []string{"-t", "mangle"}

// Error says that a program of iptables failed.
type Error struct{ error }

func (e *Error) Unwrap() error { return e.error }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return &Error{fmt.Errorf("marks: %w", err)}
}

func (t Table) name() string {
	if t.program == "" {
		return "iptables"
	}
	return t.program
}

// Saved reads the table. args are arguments of iptables-save: [Alone], or none, so that
// iptables-legacy makes no table.
func (t Table) Saved(ctx context.Context, args ...string) (Saved, error) {
	text, err := t.Output(ctx, t.name()+"-save", args...)
	if err != nil {
		return Saved{}, refused(fmt.Errorf("%s-save: %w", t.name(), err))
	}
	return parseSaved(string(text)), nil
}

// Mend makes the chains that differ, and removes the stale ones, also from another back end.
// It reports whether a chain was missing that ec2net had made.
func (t Table) Mend(ctx context.Context, l *Look) (missed bool, err error) {
	last := l.last()
	if last.backEnd != l.backEnd() {
		// If ec2net is killed from here on, both back ends may have chains.
		err = t.Note(Unknown + "\n")
	}
	var made []Chain
	for _, c := range l.Want {
		if last.differs(c, l.Now) {
			made = append(made, c)
			err = errors.Join(err, t.fill(ctx, c, l.Now))
		}
	}
	err = errors.Join(err, t.DropAll(ctx, l.Now, l.Stale))
	err = errors.Join(err, t.dropOthers(ctx, last.backEnd, l.backEnd(), func(name string) bool {
		return l.Stale(name) || slices.ContainsFunc(l.Want, named(name))
	}))
	if err != nil {
		return false, err
	}
	return t.remember(ctx, l.Want, made, last)
}

// remember notes what iptables says of the wanted chains now, and logs which were made. It
// reports whether one of them was missing.
func (t Table) remember(ctx context.Context, want, made []Chain, last *Made) (missed bool, err error) {
	now, err := t.Saved(ctx, Alone...)
	if err != nil {
		return false, err
	}
	text := now.backEnd + "\n"
	for _, c := range want {
		state := now.state(c)
		if state == "" {
			return missed, refused(fmt.Errorf("iptables took %s, but the chain %s is not what it says", c.Path, c.Name))
		}
		text += c.Name + " " + state + "\n"
	}
	for i, c := range made {
		again := last.backEnd == now.backEnd && last.chains[c.Name] == now.state(c)
		missed = missed || again
		if !again || c.Iface != "" || i == len(made)-1 { // for all chains, the lines of the ENIs are enough
			t.tell(c, again)
		}
	}
	if len(want) == 0 {
		text = ""
	}
	return missed, t.Note(text)
}

// tell logs that a chain was made, or was missing and made again.
func (t Table) tell(c Chain, again bool) {
	switch {
	case again:
		t.Info(c.Of(), "marks were missing: restored them")
	case c.Iface == "":
		t.Info(c.Of(), "answers get the mark of their connection (chain %s)", c.Name)
	default:
		t.Info(c.Of(), "what comes in for this machine gets a mark (chain %s)", c.Name)
	}
}

// fill loads the fragment of a chain. Then it makes the jump if there is none, and removes
// all but one.
func (t Table) fill(ctx context.Context, c Chain, now Saved) error {
	if err := t.Run(ctx, t.name()+"-restore", "-w", lockWait, "--noflush", c.Path); err != nil {
		return refused(err)
	}
	if !c.Declares() {
		return nil
	}
	jumps := now.jumps(c.Name)
	if len(jumps) == 0 {
		return t.change(ctx, "-A", c.jump())
	}
	for _, jump := range jumps[1:] {
		if err := t.change(ctx, "-D", jump); err != nil {
			return err
		}
	}
	return nil
}

// DropAll removes those of ec2net's chains for which drops returns true.
func (t Table) DropAll(ctx context.Context, now Saved, drops func(name string) bool) (err error) {
	for _, name := range now.Own() {
		if drops(name) {
			err = errors.Join(err, t.drop(ctx, name, now))
		}
	}
	return err
}

// drop removes every jump into a chain, and the chain.
func (t Table) drop(ctx context.Context, name string, now Saved) error {
	for _, jump := range now.jumps(name) {
		if err := t.change(ctx, "-D", jump); err != nil {
			return err
		}
	}
	if err := t.change(ctx, "-F", name); err != nil {
		return err
	}
	if err := t.change(ctx, "-X", name); err != nil {
		return err
	}
	t.Info(Chain{Iface: ifaceOf(name)}.Of(), "removed the chain %s (%s)", name, t.name())
	return nil
}

// dropOthers removes chains from the back end that is not in use, if that was in use when
// the marks were made, or nobody knows which was. It asks for all tables, so that
// iptables-legacy makes none.
func (t Table) dropOthers(ctx context.Context, last, now string, drops func(string) bool) error {
	if last == now {
		return nil
	}
	other := t
	if other.program = NFT; now == NFT {
		other.program = Legacy
	}
	there, err := other.Saved(ctx)
	if err != nil {
		if last == Unknown {
			return nil // most systems have one back end
		}
		return err
	}
	return other.DropAll(ctx, there, drops)
}

// change runs iptables(8) on the table, with an action and the rest of its arguments.
func (t Table) change(ctx context.Context, action, rest string) error {
	args := append([]string{"-w", lockWait, "-t", "mangle", action}, strings.Fields(rest)...)
	return refused(t.Run(ctx, t.name(), args...))
}
