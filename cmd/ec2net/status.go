package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/hooks"
	"ec2net/journal"
)

// statusLimit bounds a status; another ec2net may hold a lock.
const statusLimit = 30 * time.Second

var statusCommand = command{
	name:  "status",
	args:  "[IFACE]",
	short: "print what each ENI is and should be, and the commands that mend what differs",
	long: `Looks at the machine as every event does, and prints what that would change. It
changes nothing, and does not ask IMDS. Each attached ENI has a line: its id, its route
table, when IMDS last said something new about it, its state, and the addresses that it
should have. A state other than ok has its reason below.

Then come the commands that mend what differs, typed as root in this order, and the
last lines that watch has logged since boot; "journalctl -t ec2net" has all. The exit
status is 1 if something differs.

With a name it prints that ENI alone, with the commands about it and about the whole
machine. Root is not needed, except to see the marks, and whether watch runs.`,
	words: []item{
		{"ok", "The ENI is what it should be. IPv6 that EC2 has given it is named below: ec2net does not configure it yet."},
		{"differs", "The commands mend it, as the next event would."},
		{"down", "It is attached and not up, so it should have nothing."},
		{"left alone", "Somebody else configures it."},
		{"unknown", "What it should be is not known."},
	},
	examples: "ec2net status\nec2net status eth1\nec2net status --json",
	looks:    true,
	settings: []string{"base", "mark-mask", "primary-table", "addresses", "marks", "unmanaged", "templates"},
	prepare: func(flags *pflag.FlagSet) action {
		asJSON := flags.Bool("json", false, `print one object in JSON; "ec2net help status-format" describes it`)
		return func(inv *invocation) error { return inv.status(*asJSON) }
	},
}

func (inv *invocation) status(asJSON bool) error {
	name := ""
	switch len(inv.args) {
	case 0:
	case 1:
		name = inv.args[0]
		if err := facts.CheckName(name); err != nil {
			return usage(err)
		}
	default:
		return usageError("status takes one interface", "ec2net help status")
	}
	s, failed := inv.look(name)
	if s == nil {
		return failed
	}
	var out strings.Builder
	if asJSON {
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		out.Write(append(text, '\n'))
	} else {
		printStatus(&out, s, time.Now())
	}
	if _, err := io.WriteString(inv.stdout, out.String()); err != nil {
		return system(err)
	}
	if failed == nil && s.Differs {
		return quietStatus(fault.Differs)
	}
	return failed
}

// look gets the status of this machine.
func (inv *invocation) look(name string) (*hooks.Status, error) {
	tree, err := openMachine("") // it writes nothing
	if err != nil {
		return nil, err
	}
	s, warnings, err := inv.settingsOnHost(tree)
	if err != nil {
		tree.Close()
		return nil, err
	}
	for _, w := range warnings {
		inv.say("%s", w)
	}
	h, done, err := s.host(tree, said{inv})
	if err != nil {
		tree.Close()
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), statusLimit)
	defer cancel()
	status, err := h.Status(ctx, name)
	if errors.Is(err, os.ErrPermission) {
		err = &fault.Error{Kind: fault.System, Err: err, Try: "root may read it"}
	}
	return status, err
}

// said is a log on stderr.
type said struct{ inv *invocation }

// Info drops a line.
func (said) Info(string, string, ...any) {}

// Warn says what needs a person.
func (s said) Warn(iface, format string, args ...any) {
	s.inv.say("%s: %s", iface, fmt.Sprintf(format, args...))
}

// printStatus prints a status for people.
func printStatus(w io.Writer, s *hooks.Status, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if len(s.ENIs) > 0 {
		fmt.Fprintln(t, "NAME\tENI\tTABLE\tFACTS SINCE\tSTATE\tADDRESSES")
	} else {
		fmt.Fprintln(w, "no ENI is attached, and none is known")
	}
	for _, e := range s.ENIs {
		table, since, addresses := "", "", make([]string, len(e.Addresses))
		if e.Table != 0 {
			table = strconv.Itoa(e.Table)
		}
		if e.FactsSince != nil {
			since = ago(now.Sub(*e.FactsSince))
		}
		for i, a := range e.Addresses {
			addresses[i] = a.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Name, orDash(e.ID), orDash(table), orDash(since), e.State,
			orDash(strings.Join(addresses, " ")))
	}
	t.Flush()
	for _, e := range s.ENIs {
		if e.Why != "" {
			fmt.Fprintf(w, "\n%s is %s: %s\n", e.Name, e.State, journal.OneLine(e.Why))
		}
	}
	if s.Differs {
		fmt.Fprintln(w, "\nTyped as root, this mends what differs:")
	}
	for _, c := range s.Commands {
		fmt.Fprintf(w, "  %s\n", journal.OneLine(c))
	}
	if s.MarksUnseen {
		fmt.Fprintln(w, "\nMarks: only root sees whether they differ.")
	}
	fmt.Fprintf(w, "\n%s\n", watchLine(s.Watch))
	for _, l := range s.Watch.Lines {
		fmt.Fprintf(w, "  %s  %s\n", l.Time.Local().Format(time.DateTime), journal.OneLine(l.Text))
	}
}

func watchLine(w hooks.WatchStatus) string {
	line := "Watch: only root sees whether it runs"
	switch {
	case w.Runs == nil:
	case *w.Runs:
		line = "Watch runs"
	default:
		line = "Watch does not run"
	}
	if len(w.Lines) == 0 {
		return line + "; it has logged nothing since boot."
	}
	return line + "; the last that it has logged:"
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

const statusFormat = `"ec2net status --json" prints one object. A field that does not apply is left out;
a list may be empty. Later versions may add fields, and states; they remove none.

differs     boolean  whether there are commands
enis        list     the attached ENIs, the primary first; then those that are gone and
                     have left something behind
commands    list     the commands that mend what differs, in their order; a line that
                     begins with # is what no command mends
marks_unseen
            boolean  true if only root may see whether the marks differ
watch       object   runs (boolean; left out if only root may know), and lines, a list of
                     the last lines that watch has logged since boot, the oldest first:
                     time (RFC 3339) and text

An ENI has these fields:

name         string   the interface's name: "eth1"
state        string   "ok", "differs", "down", "left alone" or "unknown"
why          string   the reason of the state, or what is wrong besides
id           string   the ENI's id: "eni-0123456789abcdef1"
mac          string   "02:00:00:00:01:20"
primary      boolean  whether the instance was launched with this ENI
table        number   its own route table
addresses    list     the addresses that it should have; those that it has, if nothing
                      is known of it
facts_since  string   when IMDS last said something new about it: RFC 3339
commands     list     those of the commands that are about this ENI
`
