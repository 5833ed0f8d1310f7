package disk

import (
	"os"
	"strings"
	"testing"
)

// A tree reads a file again once it has changed the file, and not before.
func TestSole(t *testing.T) {
	dir := t.TempDir()
	tree := tree(t, dir)
	tree.Sole()
	file := func(want string) {
		t.Helper()
		if got, err := tree.Read("/a/file"); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	list := func(want string) {
		t.Helper()
		if got, err := tree.List("/a"); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	file("")
	list("")
	wrote := func(text string) {
		t.Helper()
		_, err := tree.Write("/a/file", []byte(text))
		check(t, err)
	}
	wrote("one")
	file("one")
	list("file")
	write(t, dir+"/a/file", "by another")
	write(t, dir+"/a/other", "by another")
	file("one")
	list("file")
	check(t, os.Remove(dir+"/a/other"))
	got, err := tree.Read("/a/file")
	check(t, err)
	got[0] = 'X'
	file("one")
	wrote("two")
	file("two")
	lock, err := tree.OpenLock("/a/lock")
	check(t, err)
	check(t, lock.Close())
	list("file lock")
	lock, err = tree.OpenLock("/a/lock")
	check(t, err)
	check(t, lock.Close())
	check(t, tree.Remove("/a/file"))
	file("")
	list("lock")
	check(t, tree.MakeDir("/a/b/c"))
	list("b lock")
}
