// Package report keeps what tests found in a document, so that it cannot drift.
package report

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
)

var update = flag.Bool("update", false, "write what the tests found into the documents")

// Section compares a section of a document with what a test found: the lines between
// <!-- begin NAME --> and <!-- end NAME -->. With -update it writes the section anew;
// then test the packages of one document one by one (go test -p 1).
func Section(t testing.TB, doc, name, found string) {
	t.Helper()
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	want, err := replace(text, name, found)
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	if bytes.Equal(text, want) {
		return
	}
	if !*update {
		t.Errorf("%s is not what the tests found; \"make update\" writes it anew:\n%s", doc, diff.Diff(doc, text, "found", want))
		return
	}
	if err := os.WriteFile(doc, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Write writes a section anew, with the results of a long run, which no test can
// compare.
func Write(doc, name, found string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	if text, err = replace(text, name, found); err != nil {
		return fmt.Errorf("%s: %w", doc, err)
	}
	return os.WriteFile(doc, text, 0o644)
}

func replace(text []byte, name, found string) ([]byte, error) {
	begin, end := []byte("<!-- begin "+name+" -->\n"), []byte("<!-- end "+name+" -->\n")
	before, rest, ok := bytes.Cut(text, begin)
	if !ok {
		return nil, fmt.Errorf("no line %q", bytes.TrimSpace(begin))
	}
	_, after, ok := bytes.Cut(rest, end)
	if !ok {
		return nil, fmt.Errorf("no line %q after %q", bytes.TrimSpace(end), bytes.TrimSpace(begin))
	}
	return bytes.Join([][]byte{before, begin, []byte(found), end, after}, nil), nil
}

// Update writes a section anew with -update: figures that are others in every run, which
// no test can compare.
func Update(t testing.TB, doc, name, found string) {
	t.Helper()
	if !*update {
		return
	}
	if err := Write(doc, name, found); err != nil {
		t.Fatal(err)
	}
}
