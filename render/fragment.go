package render

import (
	"errors"
	"strings"

	"ec2net/facts"
	"ec2net/lines"
)

// checkFragment checks a rendered fragment by the format of iptables-restore(8):
// tables, each "*name", then chains and rules, then COMMIT. The stanza brings the ENI up
// even if iptables refuses the fragment, so it has to be right before that.
func checkFragment(content []byte, _ facts.ENI) error {
	table := ""
	for i, line := range strings.Split(string(content), "\n") {
		refuse := func(why string) error {
			return &lines.Error{Number: i + 1, Text: line, Why: why, Try: "iptables-restore(8) has the format, and iptables-save prints an example"}
		}
		switch {
		case strings.Trim(line, " \t") == "", line[0] == '#':
		case line[0] == '*' && table == "":
			table = line
		case line == "COMMIT" && table != "":
			table = ""
		case table == "":
			return refuse("outside a table, which begins with a line such as *mangle")
		case line[0] != ':' && line[0] != '-':
			return refuse("neither a chain (:name) nor a rule (-A ...)")
		}
	}
	if table != "" {
		return errors.New("there is no COMMIT after " + lines.Clip(table))
	}
	return nil
}
