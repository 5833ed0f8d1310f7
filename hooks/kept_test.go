package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ec2net/facts"
	"ec2net/hooks/mangle"
	"ec2net/plan"
	"ec2net/stack/networkd/unit"
)

// kept is the files on the disk of a world, for the model. The model looks after every
// step, so kept reads and judges only files of which inotify(7) reports a change.
type kept struct {
	root  string
	watch int
	dirs  map[int]string // by watch descriptor
	files map[string]string
	// wrong says what is wrong with a file.
	wrong map[string]string
}

// rootOnTmpfs makes a folder for the root of a machine, on a file system that syncs at
// once.
func rootOnTmpfs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ec2net-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// watchKept begins to watch the folders in which ec2net keeps files.
func watchKept(t *testing.T, root string) kept {
	t.Helper()
	k := kept{root: root, dirs: map[int]string{}, files: map[string]string{}, wrong: map[string]string{}}
	var err error
	k.watch, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	check(t, err)
	t.Cleanup(func() { unix.Close(k.watch) })
	for _, dir := range []string{"/etc/network/interfaces.d", unit.Folder, stateDir, runDir} {
		check(t, os.MkdirAll(root+dir, 0o755))
		wd, err := unix.InotifyAddWatch(k.watch, root+dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVE|unix.IN_DELETE)
		check(t, err)
		k.dirs[wd] = dir
	}
	return k
}

// changed returns the files that have changed. All events of a step fit into the kernel's
// queue.
func (k *kept) changed() (map[string]bool, error) {
	paths := make(map[string]bool)
	var events [8 << 10]byte
	for {
		n, err := unix.Read(k.watch, events[:])
		if errors.Is(err, unix.EAGAIN) {
			return paths, nil
		} else if err != nil {
			return nil, err
		}
		for rest := events[:n]; len(rest) > 0; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			name := string(bytes.TrimRight(rest[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+e.Len], "\x00"))
			if e.Mask&unix.IN_Q_OVERFLOW != 0 {
				return nil, errors.New("events of the disk are lost")
			}
			if name != "" && name[0] != '.' && !strings.HasSuffix(name, ".lock") {
				paths[filepath.Join(k.dirs[int(e.Wd)], name)] = true
			}
			rest = rest[unix.SizeofInotifyEvent+e.Len:]
		}
	}
}

// keeps returns the files that ec2net keeps, as they are now.
func (w *world) keeps(t *testing.T) *kept {
	k := &w.kept
	changed, err := k.changed()
	check(t, err)
	for path := range changed {
		delete(k.wrong, path)
		text, err := os.ReadFile(k.root + path)
		if errors.Is(err, os.ErrNotExist) {
			delete(k.files, path)
			continue
		}
		check(t, err)
		k.files[path] = string(text)
		if !w.fits(path, string(text)) {
			k.wrong[path] = fmt.Sprintf("%s is not what it should be: %s", path, text)
		}
	}
	return k
}

// fits reports whether ec2net can have written this text to this file.
func (w *world) fits(path, text string) bool {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	switch {
	case strings.HasSuffix(path, ".json"):
		enis, err := facts.Decode(strings.NewReader(text), w.Numbers)
		return err == nil && len(enis) == 1
	case strings.HasSuffix(path, ".up"):
		n, err := w.memory().note(notePath(name))
		return err == nil && n != (plan.Note{})
	case strings.HasSuffix(path, ".down"):
		n, err := w.memory().note(downPath(name))
		return err == nil && n != (plan.Note{})
	case strings.HasSuffix(path, ".lease"):
		l, err := w.memory().lease(name)
		return err == nil && l != (plan.Lease{})
	case path == movedPath:
		moved, err := w.memory().moved()
		return err == nil && len(moved) == strings.Count(text, "\n")
	case path == marksPath:
		return mangle.ParseMade([]byte(text)) != nil
	}
	return w.rendered[text]
}

// files returns the files that ec2net keeps, except for locks and temporary files.
func (w *world) files(t *testing.T) map[string]string { return w.keeps(t).files }
