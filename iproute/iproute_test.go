package iproute

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// text spells a route as the command that adds it, from its table on.
func text(r Route) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %v %v", r.Table, r.Kind, r.Dst)
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %v", r.Gateway)
	}
	if r.Dev != "" {
		fmt.Fprintf(&b, " dev %s", r.Dev)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %v", r.Source)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	return b.String()
}

// The cases are in testdata/routes.txt.
func TestCommands(t *testing.T) {
	cases, err := os.ReadFile("testdata/routes.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(cases)) {
		command, want, ok := strings.Cut(strings.TrimSpace(line), "=>")
		if !ok {
			continue
		}
		got := "nothing"
		for _, r := range Parse([]string{strings.TrimRight(command, " ")}) {
			got = text(r)
		}
		if got != strings.TrimSpace(want) {
			t.Errorf("%s\n%s, want%s", command, got, want)
		}
	}
}

// Of routes with one destination and metric there is one in a table: "add" fails if it is
// there, "replace" replaces it.
func TestSamePlace(t *testing.T) {
	got := Parse([]string{
		"ip route add default via 10.0.1.1 table 1001",
		"ip route add default via 10.0.1.2 table 1001",
		"ip route add default via 10.0.1.3 metric 5 table 1001",
		"ip route add default via 10.0.1.4 table 1002",
		"ip route replace blackhole default table 1001",
		"logger done",
	})
	var texts []string
	for _, r := range got {
		texts = append(texts, text(r))
	}
	want := []string{"1001 blackhole 0.0.0.0/0", "1001 unicast 0.0.0.0/0 via 10.0.1.3 metric 5", "1002 unicast 0.0.0.0/0 via 10.0.1.4"}
	if !slices.Equal(texts, want) {
		t.Errorf("%q, want %q", texts, want)
	}
}

func TestKinds(t *testing.T) {
	if got := fmt.Sprint(Unicast, Blackhole, Unreachable, Prohibit, Throw, Kind(2)); got != "unicast blackhole unreachable prohibit throw 2" {
		t.Error(got)
	}
}

// Whatever Parse returns, the command that its words make is read as the same route.
func FuzzParse(f *testing.F) {
	cases, err := os.ReadFile("testdata/routes.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(cases)) {
		command, _, _ := strings.Cut(line, "=>")
		f.Add(strings.TrimSpace(command))
	}
	f.Fuzz(func(t *testing.T, command string) {
		for _, r := range Parse([]string{command}) {
			table, rest, _ := strings.Cut(text(r), " ")
			again := Parse([]string{"ip route add " + rest + " table " + table})
			if len(again) != 1 || again[0] != r {
				t.Errorf("%q is read as %+v, and that as %+v", command, r, again)
			}
		}
	})
}
