package hooks

import (
	"testing"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/plan"
)

// fuzzTree is a tree of which only the files that a target writes differ.
func fuzzTree(f *testing.F) *disk.Tree {
	f.Helper()
	tree, err := disk.OpenTree(f.TempDir(), false)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { tree.Close() })
	return tree
}

// Whatever stands in /run: what is taken reads back as the same, and of another
// program's notes only the one line is taken.
func FuzzRun(f *testing.F) {
	f.Add("02:00:00:00:01:20 7 1001\n", "managed=true\n")
	f.Add("02:00:00:00:01:20 -7 99999999999999999999", "NETWORK_FILE=/run/systemd/network/10-netplan-eth1.network\rmanaged=")
	tree := fuzzTree(f)
	s := memory{tree: tree, numbers: facts.DefaultNumbers}
	f.Fuzz(func(t *testing.T, note, _ string) {
		if _, err := tree.Write(notePath("eth1"), []byte(note)); err != nil {
			t.Fatal(err)
		}
		up := s.note("eth1")
		if up == (plan.Note{}) {
			return
		}
		link := plan.Link{Name: "eth1", MAC: up.MAC, Index: up.Index}
		if err := s.setNote(link, up.Number); err != nil {
			t.Fatal(err)
		}
		if again := s.note("eth1"); again != up || !again.Of(link) {
			t.Errorf("%+v became %+v", up, again)
		}
	})
}
