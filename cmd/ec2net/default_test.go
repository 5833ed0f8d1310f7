package main

import (
	"os"
	"strings"
	"testing"
)

// The file that is installed shows every setting, as the help describes it.
func TestDefaultFile(t *testing.T) {
	want := `# Settings of ec2net, as NAME=value; ec2net(8) describes them. Shown is
# what holds without them.
`
	for _, row := range settingsTable {
		want += "\n# " + row.help + "\n#" + row.name + "=" + row.initial + "\n"
	}
	text, err := os.ReadFile("../../hooks/default")
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != want {
		t.Errorf("hooks/default is\n%s\nwant\n%s", text, want)
	}
	for _, row := range settingsTable {
		if _, err := parseSettings("default", strings.ReplaceAll(string(text), "#"+row.name, row.name)); err != nil {
			t.Error(err)
		}
	}
}
