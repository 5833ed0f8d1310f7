package hooks

import (
	"testing"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/plan"
)

// fuzzTree returns a tree in which only the files change that a target writes.
func fuzzTree(f *testing.F) *disk.Tree {
	f.Helper()
	tree, err := disk.OpenTree(f.TempDir(), false)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { tree.Close() })
	return tree
}

// Whatever is in ec2net's own files in /run: what ec2net accepts of it, it writes and
// reads back unchanged.
func FuzzRun(f *testing.F) {
	f.Add("02:00:00:00:01:20 7 1001\n", "02:00:00:00:01:20 7 10.0.1.20\n")
	f.Add("02:00:00:00:01:20 -7 99999999999999999999", "02:00:00:00:01:20 7 ended")
	f.Add("", "02:00:00:00:01:20 7 fe80::1%$(id)")
	tree := fuzzTree(f)
	s := memory{tree: tree, numbers: facts.DefaultNumbers}
	f.Fuzz(func(t *testing.T, note, lease string) {
		for path, text := range map[string]string{notePath("eth1"): note, leasePath("eth1"): lease} {
			if _, err := tree.Write(path, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		up, err := s.note("eth1")
		if err != nil {
			t.Fatal(err)
		}
		if link := (plan.Link{Name: "eth1", MAC: up.MAC, Index: up.Index}); up != (plan.Note{}) {
			if err := s.setNote(link, up.Number); err != nil {
				t.Fatal(err)
			}
			if again, err := s.note("eth1"); again != up || err != nil {
				t.Errorf("%+v became %+v, %v", up, again, err)
			}
		}
		l, err := s.lease("eth1")
		if err != nil || l == (plan.Lease{}) {
			return
		}
		if err := s.setLease("eth1", l); err != nil {
			t.Fatal(err)
		}
		if again, err := s.lease("eth1"); again != l || err != nil {
			t.Errorf("%+v became %+v, %v", l, again, err)
		}
	})
}
