package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"ec2net/fault"
	"ec2net/journal"
)

// version is set by the linker for a release.
var version = ""

// command is one entry of the command table, from which help and ec2net(8) have their
// texts.
type command struct {
	name     string
	also     []string // other names of the program that run the command
	args     string   // as in the usage line
	short    string   // in the list of commands
	long     string   // paragraphs, with an empty line between two
	words    []item   // what args may be, described
	examples string
	// byHand: people call the command, so stderr gets the lines of the log too.
	byHand bool
	// looks: the command uses the settings in force, and leaves everything as it is.
	looks bool
	// recalls: the command uses remembered facts if IMDS does not answer.
	recalls bool
	// settings are the flags of the settings that the command uses.
	settings []string
	// prepare declares the flags of the command itself, and returns what runs with
	// their values.
	prepare func(*pflag.FlagSet) action
}

// item is a word and its description: a short text, or sentences.
type item struct{ name, text string }

// action is what a command does.
type action func(*invocation) error

// noFlags prepares a command that has no flags of its own.
func noFlags(run action) func(*pflag.FlagSet) action {
	return func(*pflag.FlagSet) action { return run }
}

// commands returns the command table. A variable that help reads would be an
// initialization cycle.
func commands() []command {
	return []command{renderCommand, factsCommand, templatesCommand,
		hotplugCommand, leaseCommand, scanCommand, refreshCommand, statusCommand, upCommand, downCommand, dockerCommand, marksCommand, watchCommand, completeCommand(), helpCommand()}
}

// invocation is one run of one command.
type invocation struct {
	command command
	args    []string // without flags
	flags   *pflag.FlagSet
	env     map[string]string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	warned  string // what is wrong with the settings, as it was said last
}

// Run is ec2net: args as in os.Args, env as in os.Environ. It returns the exit
// status. The process has to end then: a template without an end may still be running.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	inv := &invocation{stdin: stdin, stdout: stdout, stderr: stderr, env: environment(env)}
	err := inv.dispatch(append(namedCommand(args[0]), args[1:]...))
	if err == nil {
		return int(fault.Done)
	}
	if quiet, ok := err.(quietStatus); ok {
		return int(quiet)
	}
	inv.say("%s", joinOnce(err))
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", journal.OneLine(hint))
	}
	return int(statusOf(err))
}

// joinOnce returns the text of an error on one line; of joined errors each once.
func joinOnce(err error) string {
	lines := strings.Split(err.Error(), "\n")
	var once []string
	for _, line := range lines {
		if !slices.Contains(once, line) {
			once = append(once, line)
		}
	}
	return strings.Join(once, "; ")
}

// say writes a message to stderr, on one line.
func (inv *invocation) say(format string, args ...any) {
	fmt.Fprintf(inv.stderr, "ec2net: %s\n", journal.OneLine(fmt.Sprintf(format, args...)))
}

func (inv *invocation) dispatch(args []string) error {
	if len(args) == 0 {
		return usageError("no command", "ec2net help")
	}
	switch args[0] {
	case "-h", "--help":
		args = []string{"help"}
	case "--version":
		_, err := fmt.Fprintln(inv.stdout, "ec2net "+versionText())
		return system(err)
	case "reads":
		return reads(args[1:])
	}
	cmd, ok := commandNamed(args[0])
	if !ok {
		return usageError(fmt.Sprintf("%q is not a command", args[0]), "ec2net help")
	}
	inv.command = cmd
	flags, run := cmd.flagSet()
	inv.flags = flags
	if err := inv.flags.Parse(args[1:]); errors.Is(err, pflag.ErrHelp) {
		return inv.printCommandHelp(cmd)
	} else if err != nil {
		return usageError(err.Error(), "ec2net help "+cmd.name)
	}
	inv.args = inv.flags.Args()
	if cmd.args == "" && len(inv.args) > 0 {
		return usageError(cmd.name+" takes no argument", "ec2net help "+cmd.name)
	}
	return run(inv)
}

// namedCommand returns the command that a documented name of the program runs.
func namedCommand(program string) []string {
	for _, c := range commands() {
		for _, name := range c.also {
			if filepath.Base(name) == filepath.Base(program) {
				return []string{c.name}
			}
		}
	}
	return nil
}

func commandNamed(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

// quietStatus ends a run with a status and nothing more to say.
type quietStatus fault.Status

func (quietStatus) Error() string { return "" }

// Status returns q.
func (q quietStatus) Status() fault.Status { return fault.Status(q) }

func usageError(what, see string) error {
	return &fault.Error{Kind: fault.Usage, Err: errors.New(what), Try: fmt.Sprintf("%q says more", see)}
}

func usage(err error) error { return fault.As(fault.Usage, err) }

func system(err error) error { return fault.As(fault.System, err) }

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func environment(env []string) map[string]string {
	m := make(map[string]string, len(env))
	for _, kv := range env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			m[name] = value
		}
	}
	return m
}
