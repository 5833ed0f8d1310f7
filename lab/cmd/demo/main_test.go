package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The demo shows what it says, and README.md has parts of what it prints, in that order.
func TestReadme(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the lab needs root")
	}
	t.Chdir("../../..") // for "make install"
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out, problems bytes.Buffer
	if status := run(t.Context(), &out, &problems); status != 0 {
		t.Fatalf("status %d: %s\n%s", status, &problems, &out)
	}
	seconds := regexp.MustCompile(`up after [0-9.]+ s`)
	masked := func(text string) string { return seconds.ReplaceAllString(text, "up after N s") }
	_, shown, _ := strings.Cut(string(readme), "Cut at `[...]`, it prints:\n\n")
	shown, _, _ = strings.Cut(shown, "\n## ")
	shown = regexp.MustCompile("(?m)^    ").ReplaceAllString(shown, "")
	rest := masked(out.String())
	for part := range strings.SplitSeq(masked(shown), "[...]\n") {
		_, after, found := strings.Cut(rest, strings.TrimSpace(part)+"\n")
		if !found || strings.TrimSpace(part) == "" {
			t.Fatalf("README.md has\n%s\nthe demo printed\n%s", part, rest)
		}
		rest = after
	}
}
