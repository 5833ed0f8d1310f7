package main

import (
	"fmt"
	"strings"

	"ec2net/disk"
	"ec2net/fault"
)

// lastSettings has the last good settings. They hold while something is wrong in the
// settings file.
const lastSettings = "/var/lib/ec2net/settings.last"

// settingsOnHost returns the settings for a command that changes the machine. A
// mistake in the settings file or in the environment is only a warning, since it must
// not keep ENIs down. A mistake in what a person types now, flags or another settings
// file, is an error.
func (inv *invocation) settingsOnHost(tree *disk.Tree) (s settings, warnings []string, err error) {
	if inv.flags.Changed("settings") {
		s, err = inv.settings()
		return s, nil, err
	}
	file, warnings, err := servingFile(tree, !inv.command.looks)
	if err != nil {
		return s, nil, err
	}
	env := inv.byEnvironment()
	for _, err := range env.dropWrong(file) {
		warnings = append(warnings, explained(err)+": ignored")
	}
	s, found := inv.byFlags().over(env.over(file)).settings()
	if found != nil {
		return s, nil, usage(found[0].err)
	}
	return s, warnings, nil
}

// servingFile returns the settings of the file, and with keep remembers them, if nothing is
// wrong in it; else the last good settings; without those, what is right in the file.
// It fails, so that a unit tries again, if neither can be read just now: the file may
// say which interfaces to leave alone.
func servingFile(tree *disk.Tree, keep bool) (file given, warnings []string, err error) {
	file, bad, failure := readSettings(settingsFile, false)
	switch {
	case failure != nil:
		bad = []error{failure}
	case file != nil:
		bad = append(bad, file.dropWrong(nil)...)
	}
	if bad == nil && !keep {
		return file, nil, nil
	}
	if bad == nil {
		if err := remember(tree, file); err != nil {
			warnings = append(warnings, "cannot remember the settings: "+explained(err))
		}
		return file, warnings, nil
	}
	var what []string
	for _, err := range bad {
		what = append(what, explained(err))
	}
	said := strings.Join(what, "; ")
	last, err := remembered(tree)
	switch {
	case last != nil:
		return last, []string{said + ": using the last good settings"}, nil
	case passes(failure):
		return nil, nil, failure
	case passes(err):
		return nil, nil, fmt.Errorf("%s, and cannot read the last good settings: %w", said, err)
	}
	warnings = []string{said + ": ignored"}
	if err != nil {
		warnings = append(warnings, explained(err))
	}
	return file, warnings, nil
}

// remember writes good settings down, in the form of the settings file.
func remember(tree *disk.Tree, file given) error {
	_, err := tree.Write(lastSettings, []byte("# The last good settings of "+settingsFile+
		". ec2net writes this file, and reads\n# it while something is wrong in the other.\n"+file.text()))
	return err
}

// remembered returns the last good settings, nil if there are none. It drops those of
// another version that this one does not know.
func remembered(tree *disk.Tree) (given, error) {
	text, err := tree.Read(lastSettings)
	if err != nil || text == nil {
		return nil, err
	}
	last, _ := parseSettings(lastSettings, string(text))
	last.dropWrong(nil)
	return last, nil
}

// explained is an error with its hint, on one line.
func explained(err error) string {
	line := joinOnce(err)
	if hint := fault.Hint(err); hint != "" {
		line = fmt.Sprintf("%s (%s)", line, hint)
	}
	return line
}
