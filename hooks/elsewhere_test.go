package hooks

import (
	"errors"
	"testing"

	"ec2net/disk"
)

// The first ec2net in the network namespace of process 1 notes that as the machine's.
func TestElsewhere(t *testing.T) {
	const machine, other = "net:[1]", "net:[2]"
	tree, err := disk.OpenTree(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for _, step := range []struct {
		what, own, first string
		elsewhere        bool
	}{
		{"nothing is noted, and process 1 is elsewhere", other, machine, false},
		{"nobody may look at process 1", other, "", false},
		{"nobody may look at anything", "", "", false},
		{"the machine's", machine, machine, false},
		{"a container's", other, machine, true},
		{"a container's with processes of its own", other, other, true},
		{"a sandbox's", other, "", true},
		{"the machine's again", machine, machine, false},
		{"the machine's in a sandbox", machine, "", false},
	} {
		err := Elsewhere(tree, step.own, step.first)
		var elsewhere *ElsewhereError
		if errors.As(err, &elsewhere) != step.elsewhere || (err != nil) != step.elsewhere {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}
