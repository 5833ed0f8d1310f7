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

// Whatever stands in the file: no panic, and only values that a shell would
// read the same way.
func FuzzSettings(f *testing.F) {
	f.Add("# comment\nEC2NET_BASE=\"2000\"\n\nEC2NET_MARK_MASK=0x3fff\n")
	f.Add("export EC2NET_BASE=1\n")
	f.Add("EC2NET_BASE=$(id)\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		found, err := parseSettings("file", text)
		if err != nil {
			return
		}
		for name, s := range found {
			if strings.ContainsAny(s.value, "\"'$`\\\n\r") {
				t.Errorf("%s=%q", name, s.value)
			}
		}
	})
}
