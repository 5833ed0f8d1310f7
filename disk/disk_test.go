package disk

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadTrusted(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string) string // gives the path to read
		want    string                                // in the error; empty if it can be read
		root    bool                                  // only root can prepare it
	}{
		{"plain", func(t *testing.T, dir string) string { return write(t, dir+"/f", "text") }, "", false},
		{"relative", func(t *testing.T, dir string) string {
			t.Chdir(dir)
			write(t, dir+"/a/f", "text")
			return "a/../a//f"
		}, "", false},
		{"file for all to write", func(t *testing.T, dir string) string {
			path := write(t, dir+"/f", "text")
			check(t, os.Chmod(path, 0o666))
			return path
		}, "/f can be written by its group or by others", false},
		{"file for the group to write", func(t *testing.T, dir string) string {
			path := write(t, dir+"/f", "text")
			check(t, os.Chmod(path, 0o664))
			return path
		}, "/f can be written by its group or by others", false},
		{"folder for all to write", func(t *testing.T, dir string) string {
			path := write(t, dir+"/a/b/f", "text")
			check(t, os.Chmod(dir+"/a", 0o777))
			return path
		}, "/a can be written by its group or by others", false},
		{"sticky folder", func(t *testing.T, dir string) string {
			path := write(t, dir+"/a/f", "text")
			check(t, os.Chmod(dir+"/a", 0o777|os.ModeSticky))
			return path
		}, "", false},
		{"file of another", func(t *testing.T, dir string) string {
			path := write(t, dir+"/f", "text")
			check(t, os.Chown(path, 1234, 0))
			return path
		}, "/f belongs to user 1234", true},
		{"folder of another", func(t *testing.T, dir string) string {
			path := write(t, dir+"/a/b/f", "text")
			check(t, os.Chown(dir+"/a", 1234, 0))
			return path
		}, "/a belongs to user 1234", true},
		{"link", func(t *testing.T, dir string) string {
			write(t, dir+"/real/f", "text")
			check(t, os.Symlink("real", dir+"/link"))
			return dir + "/link/f"
		}, "", false},
		{"link out of a safe folder into another's", func(t *testing.T, dir string) string {
			write(t, dir+"/real/f", "text")
			check(t, os.Chmod(dir+"/real", 0o777))
			check(t, os.Symlink(dir+"/real/f", dir+"/link"))
			return dir + "/link"
		}, "/real can be written", false},
		{"another's link to a safe file", func(t *testing.T, dir string) string {
			path := write(t, dir+"/real/f", "text")
			check(t, os.MkdirAll(dir+"/theirs", 0o755))
			check(t, os.Symlink(path, dir+"/theirs/f"))
			check(t, os.Chmod(dir+"/theirs", 0o777))
			return dir + "/theirs/f"
		}, "/theirs can be written", false},
		{"another's link in a sticky folder", func(t *testing.T, dir string) string {
			path := write(t, dir+"/real/f", "text")
			check(t, os.MkdirAll(dir+"/sticky", 0o755))
			check(t, os.Chmod(dir+"/sticky", 0o777|os.ModeSticky))
			check(t, os.Symlink(path, dir+"/sticky/f"))
			check(t, os.Lchown(dir+"/sticky/f", 1234, 0))
			return dir + "/sticky/f"
		}, "/sticky/f belongs to user 1234", true},
		{"link up and down", func(t *testing.T, dir string) string {
			write(t, dir+"/a/b/f", "text")
			check(t, os.Symlink("../../a/./b/f", dir+"/a/b/link"))
			return dir + "/a/b/link"
		}, "", false},
		{"links in a ring", func(t *testing.T, dir string) string {
			check(t, os.Symlink("two", dir+"/one"))
			check(t, os.Symlink("one", dir+"/two"))
			return dir + "/one"
		}, "too many levels of symbolic links", false},
		{"absent", func(t *testing.T, dir string) string { return dir + "/none" }, "no such file", false},
		{"folder", func(t *testing.T, dir string) string { return dir }, "is not a regular file", false},
		{"root folder", func(t *testing.T, dir string) string { return "/" }, "is not a regular file", false},
		{"pipe", func(t *testing.T, dir string) string {
			check(t, unix.Mkfifo(dir+"/pipe", 0o644))
			return dir + "/pipe"
		}, "is not a regular file", false},
		{"long", func(t *testing.T, dir string) string { return write(t, dir+"/f", strings.Repeat("x", 101)) }, "is longer than 100 bytes", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			data, err := ReadTrusted(c.prepare(t, t.TempDir()), 100)
			switch {
			case c.want == "" && (err != nil || string(data) != "text"):
				t.Errorf("%q, %v", data, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%q, %v; want %q", data, err, c.want)
			}
		})
	}
}

// ReadTrusted leaves no file open, whether it succeeds or fails.
func TestReadTrustedCloses(t *testing.T) {
	dir := t.TempDir()
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(entries)
	}
	write(t, dir+"/a/b/f", "text")
	check(t, os.Symlink(dir+"/a/b/../../a/b/f", dir+"/link"))
	before := open()
	for range 50 {
		for _, path := range []string{"/link", "/a", "/none", "/a/b/f/g"} {
			ReadTrusted(dir+path, 2)
		}
	}
	if after := open(); after > before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func tree(t *testing.T, dir string) *Tree {
	t.Helper()
	tree, err := OpenTree(dir, true)
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWrite(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir() + "/new"
	tree := tree(t, dir)
	for i, step := range []struct {
		content string
		wrote   bool
	}{{"one", true}, {"one", false}, {"two", true}, {"", true}, {"", false}} {
		var before unix.Stat_t
		_ = unix.Stat(dir+"/etc/x/f", &before)
		wrote, err := tree.Write("/etc/x/f", []byte(step.content))
		if err != nil || wrote != step.wrote {
			t.Fatalf("step %d: %v, %v", i, wrote, err)
		}
		got, err := tree.Read("/etc/x/f")
		if err != nil || string(got) != step.content || got == nil {
			t.Errorf("step %d: %q, %v", i, got, err)
		}
		var after unix.Stat_t
		check(t, unix.Stat(dir+"/etc/x/f", &after))
		if !wrote && (before.Ino != after.Ino || before.Mtim != after.Mtim) {
			t.Errorf("step %d: what was there already was written again", i)
		}
		if after.Mode&0o777 != 0o644 {
			t.Errorf("step %d: mode %o", i, after.Mode)
		}
	}
	check(t, tree.MakeDir("/run/a/b"))
	for _, made := range []string{"/etc", "/etc/x", "/run", "/run/a", "/run/a/b"} {
		var st unix.Stat_t
		check(t, unix.Stat(dir+made, &st))
		if st.Mode&0o777 != 0o755 {
			t.Errorf("%s: mode %o", made, st.Mode)
		}
	}
	if n := names(t, dir+"/etc/x"); !slices.Equal(n, []string{"f"}) {
		t.Errorf("left behind: %q", n)
	}
	if got, err := tree.Read("/none"); got != nil || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// When a file cannot be written, the old one is there, whole, and nothing else.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	tree := tree(t, dir)
	write(t, dir+"/etc/f/inside", "a folder where a file should be")
	if wrote, err := tree.Write("/etc/f", []byte("new")); err == nil || wrote {
		t.Error("wrote over a folder")
	}
	if n := names(t, dir+"/etc"); !slices.Equal(n, []string{"f"}) {
		t.Errorf("left behind: %q", n)
	}
}

// Either all files are written or, if one cannot be, none.
func TestWriteAll(t *testing.T) {
	dir := t.TempDir()
	tree := tree(t, dir)
	write(t, dir+"/a", "old")
	write(t, dir+"/c/inside", "a folder where a file should be")
	if wrote, err := tree.WriteAll([]Content{{"/a", []byte("new")}, {"/b/b", []byte("new")}, {"/c", []byte("new")}}); err == nil || len(wrote) != 0 {
		t.Errorf("%q, %v", wrote, err)
	}
	if got, _ := tree.Read("/a"); string(got) != "old" {
		t.Errorf("wrote half: %q", got)
	}
	if n := append(names(t, dir), names(t, dir+"/b")...); !slices.Equal(n, []string{"a", "b", "c"}) {
		t.Errorf("left behind: %q", n)
	}
	wrote, err := tree.WriteAll([]Content{{"/a", []byte("new")}, {"/d", []byte("new")}})
	if err != nil || !slices.Equal(wrote, []string{"/a", "/d"}) {
		t.Errorf("%q, %v", wrote, err)
	}
	// A file with another mode, or a link, is replaced.
	check(t, os.Chmod(dir+"/a", 0o600))
	check(t, os.Remove(dir+"/d"))
	check(t, os.Symlink("a", dir+"/d"))
	wrote, err = tree.WriteAll([]Content{{"/a", []byte("new")}, {"/d", []byte("new")}})
	if err != nil || !slices.Equal(wrote, []string{"/a", "/d"}) {
		t.Errorf("%q, %v", wrote, err)
	}
}

// A link or a pipe in the place of the temporary file, or of the file, is neither
// followed nor waited for.
func TestPlanted(t *testing.T) {
	dir := t.TempDir()
	tree := tree(t, dir)
	write(t, dir+"/secret", "old")
	check(t, os.Symlink("secret", dir+"/link"))
	top, err := tree.openFolder(".")
	check(t, err)
	defer top.close()
	if err := top.create("link", []byte("new")); !errors.Is(err, os.ErrExist) {
		t.Errorf("%v", err)
	}
	if got, _ := tree.Read("/secret"); string(got) != "old" {
		t.Error("wrote through a link")
	}
	check(t, unix.Mkfifo(dir+"/pipe", 0o644))
	if _, err := tree.Read("/pipe"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
	if _, err := tree.Write("/pipe", []byte("new")); err != nil {
		t.Errorf("did not replace a pipe: %v", err)
	}
}

// No link leads out of the tree, and none is written through.
func TestWriteStaysInside(t *testing.T) {
	outside := t.TempDir()
	write(t, outside+"/secret", "old")
	dir := t.TempDir()
	tree := tree(t, dir)
	check(t, os.Symlink(outside, dir+"/etc"))
	if _, err := tree.Write("/etc/secret", []byte("new")); err == nil {
		t.Error("followed a link out of the tree")
	}
	if _, err := tree.Read("/etc/secret"); err == nil {
		t.Error("read through a link out of the tree")
	}
	check(t, os.Mkdir(dir+"/var", 0o755))
	check(t, os.Symlink(outside+"/secret", dir+"/var/f"))
	if _, err := tree.Write("/var/f", []byte("new")); err != nil {
		t.Errorf("did not replace a link: %v", err)
	}
	if info, err := os.Lstat(dir + "/var/f"); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
	if got, _ := os.ReadFile(outside + "/secret"); string(got) != "old" {
		t.Errorf("wrote outside: %q", got)
	}
	if _, err := tree.Write("/../../x", []byte("new")); err != nil {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir + "/x"); err != nil {
		t.Errorf("a path with .. did not stay inside: %v", err)
	}
}

func TestOverrides(t *testing.T) {
	dir := t.TempDir()
	if n, err := (Overrides{dir + "/none"}).Names(); len(n) != 0 || err != nil {
		t.Errorf("%q, %v", n, err)
	}
	write(t, dir+"/b", "text")
	write(t, dir+"/a", "text")
	o := Overrides{dir}
	if n, err := o.Names(); err != nil || !slices.Equal(n, []string{"a", "b"}) {
		t.Errorf("%q, %v", n, err)
	}
	check(t, os.Chmod(dir+"/a", 0o666))
	var untrusted *UntrustedError
	if _, err := o.Read("a"); !errors.As(err, &untrusted) || untrusted.Hint() != "chmod go-w "+dir+"/a" {
		t.Errorf("%v", err)
	}
}

// On the machine itself absolute links are followed; in ec2net's own folders, nobody
// else may own or write to anything.
func TestMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	tree, err := OpenMachine(dir + "/own")
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	check(t, os.MkdirAll(dir+"/elsewhere/own", 0o755))
	check(t, os.Symlink(dir+"/elsewhere", dir+"/away"))
	check(t, os.Symlink("elsewhere/own", dir+"/own"))
	// ".." is the folder above the link itself, or above what the link before it leads to.
	check(t, os.MkdirAll(dir+"/deep/down", 0o755))
	check(t, os.Symlink(".././/../elsewhere/", dir+"/deep/down/up"))
	check(t, os.Symlink("deep/down/up/../away", dir+"/twice"))
	check(t, tree.MakeDir(dir+"/deep/down/up/made"))
	if _, err := os.Stat(dir + "/elsewhere/made"); err != nil {
		t.Error(err)
	}
	check(t, os.Remove(dir+"/elsewhere/made"))
	for _, file := range []string{"/away/f", "/deep/down/up/g", "/twice/h", "/away/new/f", "/own/f", "/own/new/f", "/away/../away/f"} {
		wrote, err := tree.Write(dir+file, []byte(file))
		if err != nil || !wrote {
			t.Errorf("%s: %v, %v", file, wrote, err)
		}
		if got, err := tree.Read(dir + file); string(got) != file || err != nil {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	if n := names(t, dir+"/elsewhere/own"); !slices.Equal(n, []string{"f", "new"}) {
		t.Errorf("%q", n)
	}
	check(t, tree.Remove(dir+"/own/f"))
	if n, err := tree.List(dir + "/own"); err != nil || !slices.Equal(n, []string{"new"}) {
		t.Errorf("%q, %v", n, err)
	}

	var untrusted *UntrustedError
	refused := func(what string, err error) {
		t.Helper()
		if !errors.As(err, &untrusted) || untrusted.Hint() == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Somebody else's file is not read, but it is replaced.
	check(t, os.Chown(dir+"/own/new/f", 1234, 0))
	_, err = tree.Read(dir + "/own/new/f")
	refused("another's file", err)
	if wrote, err := tree.Write(dir+"/own/new/f", []byte("/own/new/f")); err != nil || !wrote {
		t.Errorf("%v, %v", wrote, err)
	}
	check(t, os.Chmod(dir+"/elsewhere/own", 0o777))
	_, err = tree.Read(dir + "/own/new/f")
	refused("read in another's folder", err)
	_, err = tree.Write(dir+"/own/g", []byte("new"))
	refused("write in another's folder", err)
	_, err = tree.OpenLock(dir + "/own/lock")
	refused("lock in another's folder", err)
	check(t, os.Chmod(dir+"/elsewhere/own", 0o755))
	check(t, os.Lchown(dir+"/own", 1234, 0))
	_, err = tree.Read(dir + "/own/new/f")
	refused("another's link", err)
	check(t, os.Lchown(dir+"/own", 0, 0))

	check(t, os.Symlink(dir+"/ring", dir+"/ring"))
	if _, err := tree.Read(dir + "/ring/f"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v", err)
	}
}

// The next write of a file removes the temporary files that killed writers left, and
// no other.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	tree, err := OpenTree(dir, false)
	check(t, err)
	defer tree.Close()
	old := time.Now().Add(-time.Hour)
	keep := map[string]time.Time{
		".f.AAAAAAAA":  time.Now(), // somebody is writing it
		".f.AAAA":      old,
		".g.AAAAAAAA":  old,
		"f.AAAAAAAA":   old,
		".f.AAAAAAAAA": old,
	}
	for name, at := range keep {
		write(t, dir+"/"+name, "x")
		check(t, os.Chtimes(dir+"/"+name, at, at))
	}
	write(t, dir+"/.f.BBBBBBBB", "half")
	check(t, os.Chtimes(dir+"/.f.BBBBBBBB", old, old))
	check(t, os.MkdirAll(dir+"/.f.CCCCCCCC", 0o755))
	_, err = tree.Write("/f", []byte("whole"))
	check(t, err)
	if _, err := os.Lstat(dir + "/.f.BBBBBBBB"); !os.IsNotExist(err) {
		t.Errorf("the half file: %v", err)
	}
	keep[".f.CCCCCCCC"] = old
	for name := range keep {
		if _, err := os.Lstat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
}

// Overwrite makes no file, and leaves nothing of the old text.
func TestOverwrite(t *testing.T) {
	dir := t.TempDir()
	tree, err := OpenTree(dir, false)
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	if err := tree.Overwrite("/a/f", []byte("x")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	write(t, dir+"/a/f", "a text")
	check(t, os.Symlink("f", dir+"/a/link"))
	for _, text := range []string{"a longer text", "text"} {
		check(t, tree.Overwrite("/a/f", []byte(text)))
		if got, err := tree.Read("/a/f"); string(got) != text || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := tree.Overwrite("/a/link", []byte("x")); err == nil {
		t.Error("follows a link")
	}
}
