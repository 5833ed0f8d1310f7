package hooks

import (
	"path"
	"slices"
	"strings"
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

// Whatever an administrator has in the files of ifupdown, which may source each
// other and themselves: looking ends, and no file is looked at twice.
func FuzzInterfaces(f *testing.F) {
	f.Add("source /etc/network/interfaces.d/*\n", "source ../interfaces\nsource-directory interfaces.d\n")
	f.Add("source interfaces.d/*.cfg\\\n", "iface eth1 inet dhcp")
	f.Add("source /etc/network/../network/interfaces.d/[\nsource-directory /", "\tsource\t*/*/*")
	tree := fuzzTree(f)
	h := &Host{Tree: tree}
	f.Fuzz(func(t *testing.T, main, sourced string) {
		for file, text := range map[string]string{interfacesFile: main, "/etc/network/interfaces.d/eth1.cfg": sourced} {
			if _, err := tree.Write(file, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		files, err := h.interfacesFiles()
		if err != nil {
			return
		}
		var seen []string
		for _, found := range files {
			if slices.Contains(seen, path.Clean(found.path)) || len(files) > 2 {
				t.Errorf("%q", seen)
			}
			seen = append(seen, path.Clean(found.path))
		}
		reads := h.checkSourced("eth1") == nil
		if reads && !strings.Contains(main+sourced, "source") {
			t.Error("says that ifupdown reads eth1.cfg")
		}
		if !reads && strings.HasPrefix(main, "source interfaces.d/*.cfg\n") {
			t.Error("says that ifupdown does not read eth1.cfg")
		}
	})
}

// Whatever stands in /run: what is taken reads back as the same, and of another
// program's notes only the one line is taken.
func FuzzRun(f *testing.F) {
	f.Add("02:00:00:00:01:20 7 1001\n", "managed=true\n")
	f.Add("02:00:00:00:01:20 -7 99999999999999999999", "NETWORK_FILE=/run/systemd/network/10-netplan-eth1.network\rmanaged=")
	tree := fuzzTree(f)
	s := memory{tree: tree, numbers: facts.DefaultNumbers}
	f.Fuzz(func(t *testing.T, note, theirs string) {
		if v := value([]byte(theirs), "managed"); strings.Contains(v, "\n") || !strings.Contains(theirs, v) {
			t.Errorf("%q", v)
		}
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
