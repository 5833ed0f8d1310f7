package disk

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutOpenat2 simulates a kernel before 5.6, or a sandbox that forbids the call.
func withoutOpenat2(t *testing.T) {
	t.Helper()
	was := openat2
	t.Cleanup(func() { openat2 = was })
	openat2 = func(int, string, *unix.OpenHow) (int, error) { return -1, unix.ENOSYS }
}

// A path leads to the same on kernels with openat2(2) and without.
func TestOpen(t *testing.T) {
	for name, kernel := range map[string]func(*testing.T){"openat2": func(*testing.T) {}, "os.Root": withoutOpenat2} {
		t.Run(name, func(t *testing.T) {
			kernel(t)
			dir := t.TempDir()
			tree := tree(t, dir)
			write(t, dir+"/a/file", "text")
			write(t, dir+"/a/empty", "")
			write(t, dir+"/a/limit", strings.Repeat("x", maxRead))
			write(t, dir+"/a/long", strings.Repeat("x", maxRead+1))
			for link, to := range map[string]string{"inside": "a/file", "outside": "../" + dir, "absolute": "/etc/passwd", "ring": "ring", "folder": "a"} {
				check(t, os.Symlink(to, dir+"/"+link))
			}
			check(t, unix.Mkfifo(dir+"/a/pipe", 0o644))
			for _, c := range []struct{ path, want, fails string }{
				{"/a/file", "text", ""}, {"/inside", "text", ""}, {"/folder/file", "text", ""}, {"/a/empty", "", ""},
				{"/a/limit", strings.Repeat("x", maxRead), ""}, {"/a/long", "", "is longer than"},
				{"/a/pipe", "", "is not a regular file"}, {"/a", "", "is not a regular file"},
				{"/outside/x", "", "escapes"}, {"/absolute", "", "escapes"}, {"/ring", "", "too many levels"}, {"/a/file/x", "", "not a directory"},
			} {
				got, err := tree.Read(c.path)
				switch {
				case c.fails == "" && (err != nil || string(got) != c.want || got == nil):
					t.Errorf("%s: %.20q, %v", c.path, got, err)
				case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
					t.Errorf("%s: %v, want %s", c.path, err, c.fails)
				}
			}
			for _, none := range []string{"/none", "/none/x", "/a/none"} {
				if got, err := tree.Read(none); got != nil || err != nil {
					t.Errorf("%s: %q, %v", none, got, err)
				}
			}
			if got, err := tree.List("/folder"); err != nil || strings.Join(got, " ") != "empty file limit long pipe" {
				t.Errorf("%q, %v", got, err)
			}
			if got, err := tree.List("/a/file"); err == nil {
				t.Errorf("listed a file: %q", got)
			}
			if got, err := tree.List("/none"); got != nil || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := tree.OpenLock("/none/lock"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v", err)
			}
			lock, err := tree.OpenLock("/a/lock")
			check(t, err)
			check(t, lock.Close())
			for _, step := range []string{"/a/lock", "/a/lock", "/none/x"} {
				check(t, tree.Remove(step))
			}
			if err := tree.Remove("/a"); !errors.Is(err, unix.ENOTEMPTY) {
				t.Errorf("removed a folder with files in it: %v", err)
			}
			check(t, os.Mkdir(dir+"/new", 0o755))
			check(t, tree.Remove("/new"))
			for _, text := range []string{"text", "other"} {
				if wrote, err := tree.Write("/folder/file", []byte(text)); wrote != (text == "other") || err != nil {
					t.Errorf("%s: %v, %v", text, wrote, err)
				}
			}
		})
	}
}

// A file of size 0, as in /proc, may have a text all the same.
func TestReadProc(t *testing.T) {
	tree := tree(t, "/proc/self")
	want, err := os.ReadFile("/proc/self/limits")
	check(t, err)
	if got, err := tree.Read("/limits"); err != nil || string(got) != string(want) || len(want) < 100 {
		t.Errorf("%q, %v", got, err)
	}
}

// An error names the caller's file, and what is wrong, once.
func TestFailed(t *testing.T) {
	dir := t.TempDir()
	tree := tree(t, dir)
	write(t, dir+"/file", "a file where a folder should be")
	_, err := tree.Write("/file/x", []byte("new"))
	if err == nil || err.Error() != "write /file/x: not a directory" {
		t.Errorf("%v", err)
	}
	if err := tree.Remove("/file/x"); err == nil || err.Error() != "remove /file/x: not a directory" {
		t.Errorf("%v", err)
	}
}
