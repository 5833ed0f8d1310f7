// Package unit reads and checks the files of systemd-networkd: systemd.syntax(7),
// systemd.network(5).
package unit

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

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

// Parse reads a file. At a line that networkd would warn about, it fails with a *lines.Error;
// the assignments are those that networkd takes all the same: without that line, or none if
// networkd then refuses the file.
func Parse(text []byte) (all []Assignment, wrong error) {
	section, at := "", 0
	raw := strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n")
	for i := 0; i < len(raw); i++ {
		number, line := i+1, begin(raw[i])
		if line == "" || comment(line) {
			continue
		}
		for goesOn(line) && i+1 < len(raw) {
			i++
			next := begin(raw[i])
			if comment(next) { // systemd.syntax(7): a comment in between is left out
				continue
			}
			line = strings.TrimSuffix(line, `\`) + " " + next
		}
		line = strings.TrimRight(line, blanks)
		refuse := func(why string) {
			wrong = cmp.Or[error](wrong, &lines.Error{Number: number, Text: line, Why: why, Try: "systemd.syntax(7) has the format, systemd.network(5) the sections"})
		}
		if !utf8.ValidString(line) {
			refuse("not UTF-8")
			return nil, wrong
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, ok = strings.CutSuffix(name, "]")
			if !ok || name == "" {
				refuse("not a section such as [Network]")
				return nil, wrong
			}
			section, at = name, number
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		switch key = strings.TrimRight(key, blanks); {
		case !ok || key == "":
			refuse("neither a section such as [Network] nor KEY=VALUE")
		case section == "":
			refuse("outside a section")
		default:
			all = append(all, Assignment{number, at, section, key, strings.TrimLeft(value, blanks)})
		}
	}
	return all, wrong
}

// begin is a line without what networkd ignores before it reads on: a line that has blanks
// behind its backslash does not go on.
func begin(line string) string { return strings.TrimLeft(strings.TrimSuffix(line, "\r"), blanks) }

// goesOn reports whether a line goes on with the next: two backslashes are one of the value.
func goesOn(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
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
	has := func(key string) bool {
		return slices.ContainsFunc(all, func(a Assignment) bool { return a.Section == "Match" && a.Key == key })
	}
	switch {
	case !has("Name"): // a VLAN or a bridge has the MAC of what is below it
		return errors.New("the section [Match] has no line Name=" + e.Name + ", so the file would be for a VLAN on " + e.Name + " too")
	case !Matches(text, e.Name, e.MAC):
		return fmt.Errorf("the section [Match] does not match %s", e.Name)
	case !has("PermanentMACAddress") && Matches(text, e.Name+".1", e.MAC): // a VLAN has none
		return fmt.Errorf("the section [Match] has a Name= that is also for a VLAN on %s, such as %s.1", e.Name, e.Name)
	}
	return nil
}

// Unmanaged reports whether a file tells networkd to leave the devices alone that it matches.
func Unmanaged(text []byte) bool {
	all, _ := Parse(text) // networkd skips what it cannot read, too
	last := ""
	for _, a := range all {
		if a.Section == "Link" && a.Key == "Unmanaged" {
			last = strings.ToLower(a.Value)
		}
	}
	return slices.Contains(yes, last)
}

// Matches reports whether the section [Match] of a file is for a device of that name and MAC,
// and names one of the two. Other conditions, such as a driver, are taken to hold.
func Matches(text []byte, name string, mac facts.MAC) bool {
	all, _ := Parse(text) // networkd skips what it cannot read, too
	isMAC := func(word string) bool { m, err := facts.ParseMAC(word); return err == nil && m == mac }
	var macs, permanent, names match
	for _, a := range all {
		switch {
		case a.Section != "Match":
		case a.Key == "MACAddress":
			macs.add(a.Value, isMAC)
		case a.Key == "PermanentMACAddress":
			permanent.add(a.Value, isMAC)
		case a.Key == "Name":
			names.add(a.Value, func(word string) bool {
				ok, err := path.Match(strings.ReplaceAll(word, "[!", "[^"), name) // fnmatch(3) has both
				return err == nil && ok
			})
		}
	}
	asked := macs.asked() || permanent.asked() || names.asked()
	return asked && macs.holds() && permanent.holds() && names.holds()
}

// Names reports whether Matches does, by the very name or MAC and not by a pattern, and
// without a condition that may not hold.
func Names(text []byte, name string, mac facts.MAC) bool {
	all, _ := Parse(text)
	names := false
	for _, a := range all {
		switch {
		case a.Section != "Match":
		case a.Key == "Name":
			names = names || slices.Contains(strings.Fields(a.Value), name)
		case a.Key == "MACAddress" || a.Key == "PermanentMACAddress":
			names = names || slices.ContainsFunc(strings.Fields(a.Value), func(word string) bool {
				m, err := facts.ParseMAC(word)
				return err == nil && m == mac
			})
		case a.Key != "Type" || a.Value != "ether":
			return false
		}
	}
	return names && Matches(text, name, mac)
}

// match is a condition of [Match]: words of which one has to fit, and words, behind an
// exclamation mark, of which none may fit.
type match struct{ one, none, fits, refused bool }

func (m *match) add(value string, fits func(word string) bool) {
	if value == "" { // it takes back those of the lines before
		*m = match{}
	}
	value, inverted := strings.CutPrefix(value, "!")
	for _, word := range strings.Fields(value) {
		if inverted {
			m.none, m.refused = true, m.refused || fits(word)
		} else {
			m.one, m.fits = true, m.fits || fits(word)
		}
	}
}

func (m match) asked() bool { return m.one || m.none }

func (m match) holds() bool { return !m.refused && (!m.one || m.fits) }
