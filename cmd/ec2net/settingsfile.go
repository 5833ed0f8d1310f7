package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ec2net/disk"
	"ec2net/fault"
)

// readSettings reads lines NAME=value, a value perhaps in quotes, which both a shell
// and systemd's EnvironmentFile= (systemd.exec(5)) read in the same way. bad has the
// mistakes in the text; err says that the text cannot be read.
func readSettings(path string, mustExist bool) (file given, bad []error, err error) {
	if path == "" {
		return nil, nil, nil
	}
	text, err := disk.ReadTrusted(path, 64<<10)
	if errors.Is(err, fs.ErrNotExist) && !mustExist {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, usage(fmt.Errorf("cannot read the settings: %w", err))
	}
	file, bad = parseSettings(path, string(text))
	return file, bad, nil
}

// parseSettings reads the correct lines, and returns the mistakes in the others.
func parseSettings(path, text string) (given, []error) {
	found := make(given)
	var bad []error
	for i, line := range strings.Split(text, "\n") {
		place := fmt.Sprintf("%s:%d", path, i+1)
		line = strings.Trim(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, text, ok := strings.Cut(line, "=")
		bare, why := unquote(text)
		switch {
		case !ok || name != strings.TrimSpace(name) || strings.Contains(line, "\r"):
			bad = append(bad, fmt.Errorf("%s: %.80q is not a line NAME=value", place, line))
		case !slices.ContainsFunc(settingsTable, func(row setting) bool { return row.name == name }):
			bad = append(bad, &fault.Error{Kind: fault.Usage, Err: fmt.Errorf("%s: there is no setting %.40q", place, name), Try: `"ec2net help settings" lists them`})
		case why != "":
			bad = append(bad, fmt.Errorf("%s: %.80q %s", place, text, why))
		case bare != "":
			found[name] = value{bare, name + " in " + place}
		}
	}
	return found, bad
}

// unquote takes the quotes off a value. It says why not if a shell would read another
// value.
func unquote(v string) (bare, why string) {
	bare = v
	if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
		bare = v[1 : len(v)-1]
	} else if strings.ContainsAny(v, " \t;&|<>()*?[]#~") {
		return v, "has to be in quotes"
	}
	if strings.ContainsAny(bare, "\"'$`\\") {
		return v, "has a character that a shell interprets: a quote, a dollar, a backquote or a backslash"
	}
	return bare, ""
}
