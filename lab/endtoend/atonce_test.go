package endtoend

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Two hundred hooks and hotplugs of two ENIs, fifty at once, each a process of its
// own, after somebody took half of the rules: all end in time, and the result is that
// of a single one. A hook has 15 s from its own start, in which a busy machine does
// not start two hundred processes.
func TestAtOnce(t *testing.T) { onStacks(t, testAtOnce) }

func testAtOnce(t *testing.T, s stack) {
	m := newFaulty(t, s)
	m.Sh(t, commands[addNew])
	before, written := m.State(t), m.files(t)
	var calls strings.Builder
	for n := range 200 {
		command := m.renew("eth1", "10.0.0.20")
		switch n % 8 {
		case 0:
			command = commands[addKnown]
		case 1:
			command = commands[addNew]
		case 2, 4, 6:
			command = m.renew("eth2", "10.0.1.30")
		}
		fmt.Fprintf(&calls, "env %s || echo %d\n", command, n)
	}
	m.WriteFile(t, "/tmp/calls", calls.String())
	m.Sh(t, "ip rule del from 10.0.0.21; ip rule del from 10.0.1.31; ip rule del fwmark 0x3e9/0x3fff")
	start := time.Now()
	if out := m.Sh(t, "xargs -d '\\n' -n 1 -P 50 sh -c </tmp/calls"); out != "" {
		t.Errorf("failed: %s", out)
	}
	t.Logf("took %v", time.Since(start))
	// Rules that came back stand behind the others of their priority.
	if now := m.State(t); sorted(now) != sorted(before) {
		sameState(t, "two hundred at once", before, now)
	}
	for path, text := range m.files(t) {
		if !has(written, path, text) {
			t.Errorf("%s is another:\n%s", path, text)
		}
	}
	if wrong := m.left(t); wrong != nil {
		t.Error(wrong)
	}
}
