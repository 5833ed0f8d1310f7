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
		got, ok := unquote(in)
		if ok != (want != "!") || (ok && got != want) {
			t.Errorf("%q: %q, %v; want %q", in, got, ok, want)
		}
	}
}

// Whatever stands in the file: no panic, only values that a shell would read the
// same way, and of those only such as can be in what is rendered.
func FuzzSettings(f *testing.F) {
	f.Add("# comment\nEC2NET_BASE=\"2000\"\n\nEC2NET_MARK_MASK=0x3fff\n")
	f.Add("export EC2NET_BASE=1\n")
	f.Add("EC2NET_BASE=$(id)\r\n")
	f.Add("EC2NET_UNMANAGED='eth[1 ens?'\nEC2NET_TIMEOUT=1h\nEC2NET_PRIMARY_TABLE=yes\nEC2NET_TEMPLATES=/etc/x")
	f.Fuzz(func(t *testing.T, text string) {
		found, err := parseSettings("file", text)
		if err != nil {
			return
		}
		for name, s := range found {
			if strings.ContainsAny(s.value, "\"'$`\\\n\r") {
				t.Errorf("%s=%q", name, s.value)
			}
			mustBeUsable(t, name, s.value)
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
