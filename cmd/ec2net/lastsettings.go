package main

import (
	"fmt"
	"strings"

	"ec2net/disk"
	"ec2net/fault"
)

// lastSettings is where ec2net keeps the settings that were right last. They serve
// while something is wrong in the file of settings.
const lastSettings = "/var/lib/ec2net/settings.last"

// settingsOnHost are those that hold for a command that changes the machine. A typing
// mistake in the file of settings must not keep ENIs down, so it is a warning, and so
// is one in the environment. What a person types now, flags and with them the name of
// another file, is held to be right.
func (inv *invocation) settingsOnHost(tree *disk.Tree) (s settings, warnings []string, err error) {
	if inv.flags.Changed("settings") {
		s, err = inv.settings()
		return s, nil, err
	}
	file, warnings, err := servingFile(tree)
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

// servingFile gives what the file of settings says, if nothing is wrong in it, and
// remembers it; else what was remembered. Without that, what is wrong does not count.
// A file that can perhaps be read a moment later is an error, for another try: it may
// say which interfaces to leave alone.
func servingFile(tree *disk.Tree) (file given, warnings []string, err error) {
	file, bad, failure := readSettings(settingsFile, false)
	switch {
	case failure != nil:
		bad = []error{failure}
	case file != nil:
		bad = append(bad, file.dropWrong(nil)...)
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
		return last, []string{said + ": the last good settings serve"}, nil
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

// remember keeps settings that are right, in the form of the file that they are from.
func remember(tree *disk.Tree, file given) error {
	_, err := tree.Write(lastSettings, []byte("# The last good settings of "+settingsFile+
		". ec2net writes this file, and reads\n# it while there is something wrong in the other.\n"+file.text()))
	return err
}

// remembered are the settings that were right last, nil if there are none. What
// another version wrote, and this one does not know, does not count.
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
	line := told(err)
	if hint := fault.Hint(err); hint != "" {
		line = fmt.Sprintf("%s (%s)", line, hint)
	}
	return line
}
