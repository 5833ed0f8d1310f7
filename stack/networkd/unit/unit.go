// Package unit reads and checks the files of systemd-networkd: systemd.syntax(7),
// systemd.network(5).
package unit

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"ec2net/facts"
	"ec2net/lines"
)

// Folder is where an administrator's files are, and ec2net's.
const Folder = "/etc/systemd/network"

// Prefix begins the names of ec2net's files. networkd takes the first file by name that
// matches a device; netplan's begin with 10.
const Prefix = "05-ec2net-"

// Path returns the path of ec2net's file for an interface.
func Path(name string) string { return Folder + "/" + Prefix + name + ".network" }

// NameOf returns the interface that a file is ec2net's for, by its path.
func NameOf(file string) (name string, ok bool) {
	name, of := strings.CutPrefix(file, Folder+"/"+Prefix)
	name, ok = strings.CutSuffix(name, ".network")
	return name, of && ok
}

// Assignment is one line KEY=VALUE. A line that ends in a backslash goes on with the next.
type Assignment struct {
	Line                int // where it begins; 1 is the first line
	At                  int // the line of its section: a file may have several of one name
	Section, Key, Value string
}

// blanks are the spaces that networkd ignores around a line, a key and a value.
const blanks = " \t\r"

// Parse reads a file. It fails with a *lines.Error at a line that networkd would warn
// about and ignore.
func Parse(text []byte) ([]Assignment, error) {
	var all []Assignment
	section, at := "", 0
	raw := strings.Split(string(text), "\n")
	for i := 0; i < len(raw); i++ {
		number, line := i+1, strings.Trim(raw[i], blanks)
		if line == "" || comment(line) {
			continue
		}
		for strings.HasSuffix(line, `\`) && i+1 < len(raw) {
			i++
			next := strings.Trim(raw[i], blanks)
			if comment(next) { // systemd.syntax(7): a comment in between is left out
				continue
			}
			line = strings.TrimSuffix(line, `\`) + " " + next
		}
		refuse := func(why string) ([]Assignment, error) {
			return nil, &lines.Error{Number: number, Text: line, Why: why, Try: "systemd.syntax(7) has the format, systemd.network(5) the sections"}
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, ok = strings.CutSuffix(name, "]")
			if !ok || name == "" {
				return refuse("not a section such as [Network]")
			}
			section, at = name, number
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		switch key = strings.TrimRight(key, blanks); {
		case !ok || key == "":
			return refuse("neither a section such as [Network] nor KEY=VALUE")
		case section == "":
			return refuse("outside a section")
		}
		all = append(all, Assignment{number, at, section, key, strings.TrimLeft(value, blanks)})
	}
	return all, nil
}

func comment(line string) bool { return strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") }

// Check checks a file that is rendered for one ENI: networkd can read every line, and the
// file matches a device with the ENI's MAC, and no other.
func Check(text []byte, e facts.ENI) error {
	all, err := Parse(text)
	if err != nil {
		return err
	}
	matches := false
	for _, a := range all {
		if a.Section != "Match" || (a.Key != "MACAddress" && a.Key != "PermanentMACAddress") {
			continue
		}
		if a.Value == "" { // it takes back those of the lines before
			matches = false
		}
		for _, word := range strings.Fields(a.Value) {
			if mac, err := facts.ParseMAC(word); err != nil || mac != e.MAC {
				return &lines.Error{Number: a.Line, Text: a.Key + "=" + a.Value,
					Why: fmt.Sprintf("the file is for %s, which has the MAC %s", e.Name, e.MAC), Try: "write {{.MAC}}"}
			}
			matches = true
		}
	}
	if !matches {
		return errors.New("the section [Match] has no line MACAddress=" + e.MAC.String() + ", so the file would be for other devices too")
	}
	named := slices.ContainsFunc(all, func(a Assignment) bool { return a.Section == "Match" && a.Key == "Name" })
	switch {
	case !named: // a VLAN or a bridge has the MAC of what is below it
		return errors.New("the section [Match] has no line Name=" + e.Name + ", so the file would be for a VLAN on " + e.Name + " too")
	case !Matches(text, e.Name, e.MAC):
		return fmt.Errorf("the section [Match] does not match %s", e.Name)
	}
	return nil
}

// Matches reports whether the section [Match] of a file is for a device of that name and MAC,
// and names one of the two. Other conditions, such as a driver, are taken to hold.
func Matches(text []byte, name string, mac facts.MAC) bool {
	all, _ := Parse(text) // networkd skips what it cannot read, too
	macs, names := match{}, match{}
	for _, a := range all {
		switch {
		case a.Section != "Match":
		case a.Key == "MACAddress" || a.Key == "PermanentMACAddress":
			macs.add(a.Value, func(word string) bool { m, err := facts.ParseMAC(word); return err == nil && m == mac })
		case a.Key == "Name":
			names.add(a.Value, func(word string) bool { ok, err := path.Match(word, name); return err == nil && ok })
		}
	}
	return (macs.asked || names.asked) && macs.holds() && names.holds()
}

// match is a condition of [Match]: a list of words, of which one has to fit.
type match struct{ asked, fits bool }

func (m *match) add(value string, fits func(word string) bool) {
	if value == "" { // it takes back those of the lines before
		*m = match{}
	}
	for _, word := range strings.Fields(value) {
		m.asked = true
		m.fits = m.fits || fits(word)
	}
}

func (m match) holds() bool { return !m.asked || m.fits }
