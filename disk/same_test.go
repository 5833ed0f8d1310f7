package disk

import (
	"os"
	"testing"
)

func TestSame(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/f", "text")
	write(t, dir+"/b/f", "text")
	check(t, os.Symlink("a", dir+"/link"))
	check(t, os.Symlink("self", dir+"/self"))
	check(t, os.Symlink("none", dir+"/dangling"))
	tree, err := OpenTree(dir, false)
	check(t, err)
	defer tree.Close()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"/a", "/a/", true},
		{"/a", "/b/../a", true},
		{"/a", "/link", true},
		{"/a/f", "/link/f", true},
		{"/a/f", "/b/f", false},
		{"/a", "/none", false},
		{"/none", "/a", false},
		{"/none", "/none", true},
		{"/a", "/a/f/none", false},
		{"/a", "/self", false},
		{"/self", "/a", false},
		{"/a", "/dangling", false},
	} {
		if got, err := tree.Same(c.a, c.b); got != c.want || err != nil {
			t.Errorf("%s and %s: %t, %v", c.a, c.b, got, err)
		}
	}
	for path, want := range map[string]bool{"/": true, "/a": true, "/link/": true, "/a/f": false, "/none": false, "/self": false, "/a/f/x": false} {
		if got, err := tree.IsFolder(path); got != want || err != nil {
			t.Errorf("%s: a folder: %t, %v", path, got, err)
		}
	}
	if os.Geteuid() != 0 {
		check(t, os.Chmod(dir+"/a", 0))
		defer func() { check(t, os.Chmod(dir+"/a", 0o755)) }() // or the folder could not be removed
		if _, err := tree.Same("/link/f", "/b/f"); err == nil {
			t.Error("knows what it cannot look at")
		}
	}
}

// On the machine an absolute link leads where it says.
func TestSameOnMachine(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/f", "text")
	check(t, os.Symlink(dir+"/a", dir+"/link"))
	tree, err := OpenMachine()
	check(t, err)
	defer tree.Close()
	if same, err := tree.Same(dir+"/link/f", dir+"/a/f"); !same || err != nil {
		t.Errorf("%t, %v", same, err)
	}
}
