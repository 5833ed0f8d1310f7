package main

import (
	"fmt"
	"maps"
	"strings"
)

// given has the settings that somebody gave, by name.
type given map[string]value

type value struct {
	text  string
	place string // for people: "EC2NET_BASE in /etc/default/ec2net:3", "--base"
}

// wrong is a mistake in settings: err names the places, names has the settings to
// ignore.
type wrong struct {
	names []string
	err   error
}

// settings applies what was given, and the defaults for the rest.
func (g given) settings() (settings, []wrong) {
	var (
		s     = settings{given: g}
		found []wrong
	)
	for _, row := range settingsTable {
		text := row.initial
		if v, ok := g[row.name]; ok {
			text = v.text
		}
		if err := row.set(&s, text); err != nil {
			found = append(found, g.wrong(err, row.name))
		}
	}
	if found != nil {
		return s, found
	}
	if err := s.numbers.Check(); err != nil {
		found = append(found, g.wrong(err, "EC2NET_BASE", "EC2NET_MARK_MASK"))
	}
	if err := s.imds.Check(); err != nil {
		found = append(found, g.wrong(err, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"))
	}
	return s, found
}

// wrong names the places of those settings that an error is about and that somebody
// gave.
func (g given) wrong(err error, names ...string) wrong {
	var of wrong
	var places []string
	for _, name := range names {
		if v, ok := g[name]; ok {
			of.names, places = append(of.names, name), append(places, v.place)
		}
	}
	of.err = fmt.Errorf("%s: %w", strings.Join(places, ", "), err)
	return of
}

// over returns the settings of both, where g beats under.
func (g given) over(under given) given {
	all := make(given)
	maps.Copy(all, under)
	maps.Copy(all, g)
	return all
}

// text returns lines that parseSettings reads.
func (g given) text() string {
	text := ""
	for _, row := range settingsTable {
		if v, ok := g[row.name]; ok {
			text += row.name + `="` + v.text + "\"\n"
		}
	}
	return text
}

// dropWrong removes the mistakes from g, and returns them. The settings under it are
// right.
func (g given) dropWrong(under given) []error {
	var dropped []error
	for {
		_, found := g.over(under).settings()
		before := len(g)
		for _, w := range found {
			for _, name := range w.names {
				delete(g, name)
			}
			dropped = append(dropped, w.err)
		}
		if len(g) == before {
			return dropped
		}
	}
}

// settings returns the settings for a command that leaves the machine as it is: the
// file, beaten by the environment, beaten by flags. Any mistake is an error.
func (inv *invocation) settings() (settings, error) {
	path := inv.flags.Lookup("settings")
	file, bad, err := readSettings(path.Value.String(), path.Changed)
	if err != nil {
		return settings{}, err
	}
	if bad != nil {
		return settings{}, usage(bad[0])
	}
	s, found := inv.byFlags().over(inv.byEnvironment().over(file)).settings()
	if found != nil {
		return s, usage(found[0].err)
	}
	return s, nil
}

// byEnvironment returns the settings that the environment gives.
func (inv *invocation) byEnvironment() given {
	g := make(given)
	for _, row := range settingsTable {
		if v := inv.env[row.name]; v != "" {
			g[row.name] = value{v, row.name + " in the environment"}
		}
	}
	return g
}

// byFlags returns the settings that flags give.
func (inv *invocation) byFlags() given {
	g := make(given)
	for _, row := range settingsTable {
		if f := inv.flags.Lookup(row.flag); f != nil && f.Changed {
			g[row.name] = value{f.Value.String(), "--" + row.flag}
		}
	}
	return g
}
