package main

import (
	"io"

	"github.com/spf13/pflag"
)

// flagSet makes the flags of a command: its own, then those of the settings that
// it uses. The action sees their parsed values.
func (c command) flagSet() (*pflag.FlagSet, action) {
	flags := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.SortFlags = false
	run := c.prepare(flags)
	if len(c.settings) > 0 {
		settingsFlags(flags, c.settings)
	}
	return flags, run
}

// textFlag is a flag that takes a value.
type textFlag struct {
	value *string
	arg   string // what help calls the value, such as FILE
	// values lists the possible values for completion, or is :files or :folders;
	// empty if the value may be anything.
	values []string
}

func (f *textFlag) String() string { return *f.value }

func (f *textFlag) Set(value string) error {
	*f.value = value
	return nil
}

// Type returns what pflag prints behind the name of the flag.
func (f *textFlag) Type() string { return f.arg }
