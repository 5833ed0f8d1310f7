package render

import (
	"errors"
	"strings"

	"ec2net/facts"
	"ec2net/lines"
)

// checkFragment holds a rendered fragment to the form of iptables-restore(8):
// tables, each "*name", then chains and rules, then COMMIT. The cfg file goes on
// when iptables refuses a fragment, so what can be seen before is seen here.
func checkFragment(content []byte, _ facts.ENI) error {
	table := ""
	for i, line := range strings.Split(string(content), "\n") {
		refuse := func(why string) error {
			return &lines.Error{Number: i + 1, Text: line, Why: why, Try: "iptables-restore(8), and iptables-save for how it looks"}
		}
		switch {
		case strings.Trim(line, " \t") == "", line[0] == '#':
		case line[0] == '*' && table == "":
			table = line
		case line == "COMMIT" && table != "":
			table = ""
		case table == "":
			return refuse("not between a line such as *mangle and COMMIT")
		case line[0] != ':' && line[0] != '-':
			return refuse("neither a chain (:name) nor a rule (-A ...)")
		}
	}
	if table != "" {
		return errors.New("there is no COMMIT after " + lines.Clip(table))
	}
	return nil
}
