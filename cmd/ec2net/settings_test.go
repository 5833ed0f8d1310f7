package main

import (
	"strings"
	"testing"
)

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{
		"1000": "1000", `"1000"`: "1000", "'/etc/x y'": "/etc/x y", `""`: "", "": "",
		"http://[fd00:ec2::254]": "!", "a b": "!", "a;b": "!", "$(id)": "!", "`id`": "!", `"$HOME"`: "!", `'it's'`: "!",
		`"open`: "!", `a\b`: "!", "~/x": "!", "a#b": "!", "*": "!",
	} {
		got, why := unquote(in)
		if (why == "") != (want != "!") || (why == "" && got != want) {
			t.Errorf("%q: %q, %q; want %q", in, got, why, want)
		}
	}
}

// A command takes the flags of the settings that it uses, and no other; every
// setting has its flag at some command.
func TestSettingsOfCommands(t *testing.T) {
	used := make(map[string]bool)
	for _, c := range commands() {
		flags, _ := c.flagSet()
		for _, flag := range c.settings {
			used[flag] = true
			if flags.Lookup(flag) == nil {
				t.Errorf("%s: there is no setting with the flag --%s", c.name, flag)
			}
		}
		if takes := flags.Lookup("settings") != nil; takes != (len(c.settings) > 0) {
			t.Errorf("%s takes --settings: %t", c.name, takes)
		}
	}
	for _, row := range settingsTable {
		if !used[row.flag] {
			t.Errorf("no command takes --%s", row.flag)
		}
	}
}

// Whatever is in the file: no panic, only values that a shell would read the same way,
// and only those that a rendered file can have.
func FuzzSettings(f *testing.F) {
	f.Add("# comment\nEC2NET_BASE=\"2000\"\n\nEC2NET_MARK_MASK=0x3fff\n")
	f.Add("export EC2NET_BASE=1\n")
	f.Add("EC2NET_BASE=$(id)\r\n")
	f.Add("EC2NET_UNMANAGED='eth[1 ens?'\nEC2NET_TIMEOUT=1h\nEC2NET_PRIMARY_TABLE=yes\nEC2NET_TEMPLATES=/etc/x")
	f.Fuzz(func(t *testing.T, text string) {
		found, _ := parseSettings("file", text)
		for name, v := range found {
			if strings.ContainsAny(v.text, "\"'$`\\\n\r") {
				t.Errorf("%s=%q", name, v.text)
			}
			mustBeUsable(t, name, v.text)
		}
		// Without the mistakes, settings hold, and read back as they are written.
		found.dropWrong(nil)
		if _, wrong := found.settings(); wrong != nil {
			t.Errorf("still wrong: %v", wrong[0].err)
		}
		again, bad := parseSettings("again", found.text())
		if bad != nil || len(again) != len(found) {
			t.Errorf("%v: %q", bad, found.text())
		}
		for name, v := range found {
			if again[name].text != v.text {
				t.Errorf("%s=%q was %q", name, again[name].text, v.text)
			}
		}
	})
}

func mustBeUsable(t *testing.T, name, value string) {
	t.Helper()
	for _, row := range settingsTable {
		var s settings
		if row.name != name || row.set(&s, value) != nil {
			continue
		}
		if strings.ContainsFunc(s.templates, func(r rune) bool { return r < ' ' || r > '~' }) || s.timeout < 0 {
			t.Errorf("%s=%q", name, value)
		}
		if s.numbers.Check() == nil && s.numbers.Base < 256 {
			t.Errorf("%s=%q is one of the kernel's tables", name, value)
		}
	}
}
