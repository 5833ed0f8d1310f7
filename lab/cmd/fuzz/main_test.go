package main

import (
	"os"
	"strings"
	"testing"
)

// The document has a number for every target, and no other.
func TestReported(t *testing.T) {
	text, err := os.ReadFile("../../../" + doc)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<!-- begin fuzz -->\n")
	section, _, ok := strings.Cut(rest, "<!-- end fuzz -->\n")
	if !ok {
		t.Fatalf("%s has no section \"fuzz\"", doc)
	}
	all, err := targets("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range all {
		if !strings.Contains(section, "| "+target.String()+" | ") {
			t.Errorf("\"make fuzz UPDATE=1\" has not run %v", target)
		}
	}
	if rows := strings.Count(section, "\n") - 2; rows != len(all) {
		t.Errorf("%d rows for %d targets", rows, len(all))
	}
}
