package render

import (
	"strings"
	"testing"

	"ec2net/facts"
)

func eth1(t testing.TB) facts.ENI {
	t.Helper()
	enis, err := facts.Examples(facts.DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	return enis[0]
}

// A fragment that checkFragment accepts consists of tables with COMMIT. Outside of them it
// has nothing that iptables-restore(8) would ignore.
func FuzzFragment(f *testing.F) {
	f.Add("*mangle\n:ec2net-eth1 -\n-A ec2net-eth1 -j MARK --set-xmark 0x3e9/0x3fff\nCOMMIT\n")
	f.Add("# comment\n*mangle\nCOMMIT\n*nat\n-F\n")
	f.Fuzz(func(t *testing.T, text string) {
		if checkFragment([]byte(text), eth1(t)) != nil {
			return
		}
		open := 0
		for line := range strings.SplitSeq(text, "\n") {
			switch {
			case strings.HasPrefix(line, "*"):
				open++
			case line == "COMMIT":
				open--
			case strings.Trim(line, " \t") != "" && line[0] != '#' && open != 1:
				t.Errorf("took %q outside of a table", line)
			}
		}
		if open != 0 {
			t.Errorf("took %q", text)
		}
	})
}
