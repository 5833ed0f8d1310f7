package main

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/pflag"

	"ec2net/fault"
)

var update = flag.Bool("update", false, "write what comes from the command table anew: parts of man/ec2net.8, and hooks/default")

// The manual page and the installed settings file describe commands, settings and
// statuses as the tables of the code do.
func TestTables(t *testing.T) {
	page := "../../man/ec2net.8"
	written(t, page, func(text string) (string, error) {
		for _, part := range []struct{ name, text string }{
			{"commands", commandsPage()}, {"settings", settingsPage()}, {"statuses", statusesPage()},
		} {
			begin, end := `.\" begin `+part.name+"\n", `.\" end `+part.name+"\n"
			before, rest, ok := strings.Cut(text, begin)
			_, after, closed := strings.Cut(rest, end)
			if !ok || !closed {
				return "", fmt.Errorf("%s has no part %s", page, part.name)
			}
			text = before + begin + part.text + end + after
		}
		return text, nil
	})
	written(t, "../../hooks/default", func(string) (string, error) { return defaultFile(), nil })
}

// written fails if a file does not have the wanted text, or with -update writes that.
func written(t *testing.T, path string, wanted func(string) (string, error)) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := wanted(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if want == string(text) {
		return
	}
	if !*update {
		t.Errorf("stale; make update writes it anew:\n%s", diff.Diff(path, text, "the tables", []byte(want)))
		return
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// defaultFile is the settings file that is installed.
func defaultFile() string {
	text := "# Settings of ec2net, as NAME=value; ec2net(8) describes them. The values shown\n# are the defaults.\n"
	for _, row := range settingsTable {
		text += "\n" + regexp.MustCompile("(?m)^").ReplaceAllString(strings.TrimSuffix(wrap(row.help, 0), "\n"), "# ") +
			"\n#" + row.name + "=" + row.initial + "\n"
	}
	return text
}

// Without the #, the lines of the installed file are settings.
func TestDefaultFile(t *testing.T) {
	text := defaultFile()
	for _, row := range settingsTable {
		text = strings.ReplaceAll(text, "#"+row.name, row.name)
	}
	if _, bad := parseSettings("default", text); bad != nil {
		t.Error(bad)
	}
}

func commandsPage() string {
	page := ""
	for _, c := range commands() {
		page += ".SS " + strings.TrimSpace(c.name+" "+c.args) + "\n" + roff(c.description())
		for _, w := range c.words {
			page += tagged(bold(w.name), sentence(w.text))
		}
		c.settings = nil // settingsPage has their flags
		flags, _ := c.flagSet()
		flags.VisitAll(func(f *pflag.Flag) {
			tag := bold("--" + f.Name)
			if takes, ok := f.Value.(*textFlag); ok {
				tag += " " + italic(takes.arg)
			}
			page += tagged(tag, sentence(f.Usage))
		})
	}
	return page
}

func settingsPage() string {
	page := ""
	for _, row := range settingsTable {
		initial := row.initial
		if initial == "" {
			initial = "none"
		}
		page += tagged(fmt.Sprintf("%s, %s %s (%s)", bold(row.name), bold("--"+row.flag), italic(row.arg), escaped(initial)), row.description())
	}
	page += tagged(bold("--settings")+" "+italic("FILE"), "Another settings file; --settings= for none.")
	return page + ".PP\n" + roff(takers())
}

// takers says which commands take which flags of settings.
func takers() string {
	var all []string // each once, in the order of the commands
	by := make(map[string][]string)
	for _, c := range commands() {
		if c.settings == nil {
			continue
		}
		flags := "--" + strings.Join(c.settings, ", --")
		if by[flags] == nil {
			all = append(all, flags)
		}
		by[flags] = append(by[flags], c.name)
	}
	text := "A command takes the flags of the settings that it uses, and --settings."
	for _, flags := range all {
		names := by[flags]
		if last := len(names) - 1; last > 0 {
			text += " " + strings.Join(names[:last], ", ") + " and " + names[last] + " take "
		} else {
			text += " " + names[0] + " takes "
		}
		text += flags + "."
	}
	return text
}

func statusesPage() string {
	page := ""
	for status, text := range statuses {
		page += tagged(bold(fmt.Sprint(status)), text)
	}
	return page
}

// What follows writes roff, groff_man(7).

func bold(text string) string   { return `\fB` + escaped(text) + `\fR` }
func italic(text string) string { return `\fI` + escaped(text) + `\fR` }

// escaped returns a text for roff: no character is special, and a hyphen is the one
// that people type.
func escaped(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
}

func tagged(tag, text string) string { return ".TP\n" + tag + "\n" + roff(text) }

// literal matches the words that have a font of their own.
var literal = regexp.MustCompile(strings.Join([]string{
	`"(?P<typed>(?:ec2net|systemctl) [^"]*)"`,
	`(?P<page>[a-z][\w-]+)\(\d\)`,
	`(?P<bold>--[a-z][a-z-]*=?|\b(?:EC2NET|AWS)_[A-Z0-9_]+(?:=\w+)?)`,
	`(?P<file>(?:\B/|\b)[\w/.@-]+\.(?:service|cfg|network|tmpl|hotplug)\b|\B/(?:etc|var|run)/[\w/.@-]*\w)`,
	`\b(?P<arg>IFACE|KIND|FOLDER|FILE)\b`,
}, "|"))

// sentenceEnd matches the end of a sentence: roff wants the next on a line of its own.
var sentenceEnd = regexp.MustCompile(`([^.\s][.?!]) `)

// roff is a text in lines.
func roff(text string) string {
	var paragraphs []string
	for _, paragraph := range strings.Split(text, "\n\n") {
		paragraph = strings.Join(strings.Fields(paragraph), " ")
		var lines []string
		for _, line := range strings.Split(sentenceEnd.ReplaceAllString(inFonts(paragraph), "$1\n"), "\n") {
			lines = append(lines, strings.Split(strings.TrimSuffix(wrap(line, 0), "\n"), "\n")...)
		}
		for i, line := range lines {
			if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
				lines[i] = `\&` + line
			}
		}
		paragraphs = append(paragraphs, strings.Join(lines, "\n")+"\n")
	}
	return strings.Join(paragraphs, ".PP\n")
}

func inFonts(text string) string {
	plain := strings.NewReplacer(`\`, `\e`)
	out, at := "", 0
	for _, found := range literal.FindAllStringSubmatchIndex(text, -1) {
		out += plain.Replace(text[at:found[0]])
		for i, name := range literal.SubexpNames() {
			if name == "" || found[2*i] < 0 {
				continue
			}
			font := bold
			if name == "file" || name == "arg" {
				font = italic
			}
			at = found[2*i+1]
			out += font(text[found[2*i]:at])
			if name == "typed" {
				at = found[1]
			}
		}
	}
	return out + plain.Replace(text[at:])
}

// TestStatuses holds that every exit status has a text, and a place in the order in
// which one of several errors decides.
func TestStatuses(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../fault/fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || len(spec.Names) != 1 {
			return true
		}
		number, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		s, err := strconv.Atoi(number.Value)
		if err != nil {
			t.Fatal(err)
		}
		found++
		if s >= len(statuses) {
			t.Errorf("%s has no text in help.go", spec.Names[0].Name)
		}
		if s != 0 {
			if got := fault.Of(errors.Join(fault.As(fault.Status(s), errors.New("joined")))); got != fault.Status(s) {
				t.Errorf("%s of a joined error is %d: it is not in fault.go's deciding", spec.Names[0].Name, got)
			}
		}
		return true
	})
	if found != len(statuses) {
		t.Errorf("%d statuses, and texts of %d", found, len(statuses))
	}
}
