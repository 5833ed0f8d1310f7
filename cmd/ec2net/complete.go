package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"ec2net/facts"
	"ec2net/render"
)

func completeCommand() command {
	return command{
		name:  "complete",
		args:  "[WORD...]",
		short: "complete a command line: shells call it",
		long: `Prints the completions of the last word, one a line, with a description behind a
tab. The words after "--" are the command line typed so far, the program's name
first; a flag, = and a value are one word or, in bash, three. The lines :files and
:folders ask the shell to complete the name of a file or folder itself.`,
		examples: `ec2net complete -- ec2net ren
ec2net complete -- ec2net render --only ""`,
		prepare: noFlags(runComplete),
	}
}

func runComplete(inv *invocation) error {
	if len(inv.args) == 0 {
		return nil
	}
	words := append(namedCommand(inv.args[0]), inv.args[1:]...)
	if len(words) == 0 {
		return nil
	}
	var out strings.Builder
	for _, c := range completions(words) {
		out.WriteString(c + "\n")
	}
	_, err := io.WriteString(inv.stdout, out.String())
	return system(err)
}

// completions returns the completions of the last word.
func completions(words []string) []string {
	var flag string // "--only=", if the last word begins with it
	if name, _, ok := strings.Cut(words[len(words)-1], "="); ok && strings.HasPrefix(name, "--") {
		flag = name + "="
	}
	words = splitFlags(words)
	before, last := words[:len(words)-1], words[len(words)-1]
	var found []string
	for _, c := range candidates(before, strings.HasPrefix(last, "-")) {
		if c[0] == ':' {
			found = append(found, c)
		} else if word, _, _ := strings.Cut(c, "\t"); strings.HasPrefix(word, last) {
			found = append(found, flag+c)
		}
	}
	return found
}

// splitFlags makes two words of a flag and its value, which may be one word, or three
// with "=" in the middle. The third is missing if the value is empty.
func splitFlags(words []string) []string {
	isFlag := func(word string) bool { return strings.HasPrefix(word, "--") }
	var all []string
	for i, word := range words {
		name, value, joined := strings.Cut(word, "=")
		switch {
		case joined && isFlag(name):
			all = append(all, name, value)
		case word != "=" || i == 0 || !isFlag(words[i-1]):
			all = append(all, word)
		case i+1 == len(words) || words[i+1] == "" || isFlag(words[i+1]):
			all = append(all, "")
		}
	}
	return all
}

// candidates returns what may follow the words of a command line.
func candidates(before []string, dash bool) []string {
	if len(before) == 0 {
		if dash {
			return []string{"--help", "--version"}
		}
		return commandNames()
	}
	c, ok := commandNamed(before[0])
	if !ok {
		return nil
	}
	flags, _ := c.flagSet()
	var args []string
	for i := 1; i < len(before); i++ {
		name, isFlag := strings.CutPrefix(before[i], "--")
		if !isFlag {
			args = append(args, before[i])
			continue
		}
		if f := flags.Lookup(name); f != nil && f.NoOptDefVal == "" {
			if i++; i == len(before) {
				return valuesOf(f)
			}
		}
	}
	if !dash {
		return nextArgument(c.args, args)
	}
	var found []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(before, "--"+f.Name) {
			short, _, _ := strings.Cut(f.Usage, "; ")
			found = append(found, "--"+f.Name+"\t"+short)
		}
	})
	return found
}

// valuesOf returns the values that a flag takes, if they are known.
func valuesOf(f *pflag.Flag) []string {
	if takes, ok := f.Value.(*textFlag); ok {
		return takes.values
	}
	return nil
}

// nextArgument returns what may follow some arguments by the usage line, such as
// "up | down | wait IFACE".
func nextArgument(usage string, args []string) []string {
	var found []string
	for form := range strings.SplitSeq(strings.Trim(usage, "[]"), "|") {
		words := strings.Fields(form)
		if len(words) > 0 && strings.HasSuffix(words[0], "...") {
			words = slices.Repeat(words, len(args)+1)
		}
		if len(words) <= len(args) {
			continue
		}
		fits := true
		for i, arg := range args {
			fits = fits && (arg == words[i] || isPlaceholder(words[i]))
		}
		if fits {
			found = append(found, expand(words[len(args)])...)
		}
	}
	return slices.DeleteFunc(found, func(word string) bool { return slices.Contains(args, word) })
}

func isPlaceholder(word string) bool {
	return word == strings.ToUpper(word) || strings.HasSuffix(word, "...")
}

// expand returns the words that a word of a usage line stands for.
func expand(word string) []string {
	switch strings.TrimSuffix(word, "...") {
	case "IFACE":
		return interfacesIn("/sys/class/net")
	case "NAME":
		return templateNames()
	case "COMMAND":
		return commandNames()
	case "TOPIC":
		var names []string
		for _, t := range topics {
			if _, both := commandNamed(t.name); !both {
				names = append(names, t.name+"\t"+t.short)
			}
		}
		return names
	}
	if isPlaceholder(word) {
		return nil
	}
	return []string{word}
}

func commandNames() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name+"\t"+c.short)
	}
	return names
}

// interfacesIn lists the interfaces that can be ENIs: no bridge, tunnel or veth.
func interfacesIn(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // nothing to offer
	}
	var names []string
	for _, e := range entries {
		_, err := os.Stat(filepath.Join(dir, e.Name(), "device"))
		if err == nil || facts.NumberedByName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

func templateNames() []string {
	names := render.Kinds()
	t, err := render.Load(nil)
	if err != nil {
		return names
	}
	for _, row := range t.List() {
		names = append(names, row.Name)
	}
	return append(names, render.BlocksFile)
}
