package disk

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
)

// Tree is a folder that stands for the root of a file system: "/" itself, or
// any folder that files are to be written below. No link leads out of it.
type Tree struct{ root *os.Root }

// OpenTree opens dir, which is made if create says so.
func OpenTree(dir string, create bool) (*Tree, error) {
	if create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{root}, nil
}

// Close lets go of the folder.
func (t *Tree) Close() error { return t.root.Close() }

// Read reads a file by its absolute path on the machine; nil if there is none.
func (t *Tree) Read(file string) ([]byte, error) {
	data, err := t.root.ReadFile(below(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

// Write makes file, an absolute path on the machine, have this content. At any
// moment, and after a loss of power, there is the old content or the new one
// and nothing between: a temporary file in the same folder, whose name begins
// with a dot so that no wildcard finds it, is synced, renamed, and the folder
// synced. Content that is there already is not written again; wrote says
// whether it was.
func (t *Tree) Write(file string, content []byte) (wrote bool, err error) {
	name := below(file)
	if old, err := t.root.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	dir := path.Dir(name)
	if err := t.root.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	temp := path.Join(dir, fmt.Sprintf(".%s.%s", path.Base(name), rand.Text()[:8]))
	defer func() {
		if err != nil {
			t.root.Remove(temp)
		}
	}()
	if err := t.writeNew(temp, content); err != nil {
		return false, err
	}
	if err := t.root.Rename(temp, name); err != nil {
		return false, err
	}
	return true, t.sync(dir)
}

// writeNew writes a file that must not be there: O_EXCL follows no link that
// somebody has planted at the name.
func (t *Tree) writeNew(name string, content []byte) error {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	// The mode is meant, whatever the umask of udev or dhclient is.
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}

func (t *Tree) sync(dir string) error {
	f, err := t.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// below makes an absolute path one that os.Root takes.
func below(file string) string { return path.Join(".", path.Clean("/" + file)[1:]) }

// List names the files of a folder by its absolute path, sorted; none if there
// is no such folder.
func (t *Tree) List(dir string) ([]string, error) {
	entries, err := fs.ReadDir(t.root.FS(), below(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

// Remove removes a file by its absolute path, if it is there.
func (t *Tree) Remove(file string) error {
	err := t.root.Remove(below(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MakeDir makes a folder by its absolute path, and those above it.
func (t *Tree) MakeDir(dir string) error { return t.root.MkdirAll(below(dir), 0o755) }

// OpenLock opens a file to be locked, and makes it if need be.
func (t *Tree) OpenLock(file string) (*os.File, error) {
	return t.root.OpenFile(below(file), os.O_RDWR|os.O_CREATE, 0o600)
}
