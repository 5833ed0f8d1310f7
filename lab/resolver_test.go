package lab

import (
	"bytes"
	"testing"
)

func TestNoSuchName(t *testing.T) {
	question := "\x07example\x00\x00\x01\x00\x01"
	edns := "\x00\x00\x29\x05\xc0\x00\x00\x00\x00\x00\x00"
	got := noSuchName([]byte("\x12\x34\x01\x20\x00\x01\x00\x00\x00\x00\x00\x01" + question + edns))
	if want := []byte("\x12\x34\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00" + question); !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, query := range []string{
		"",
		"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00",                        // shorter than a header
		"\x12\x34\x81\x00\x00\x01\x00\x00\x00\x00\x00\x00" + question,         // an answer
		"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + question[:8],     // no end of the name
		"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + question[:8+1+3], // no class
	} {
		if got := noSuchName([]byte(query)); got != nil {
			t.Errorf("%q is answered %q", query, got)
		}
	}
}
