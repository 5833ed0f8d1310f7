package disk

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is a folder that stands for the root of a file system: "/" itself, or
// any folder that files are to be written below. No link leads out of it.
type Tree struct {
	root *os.Root
	// machine and own are those of OpenMachine.
	machine bool
	own     []string
}

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
	return &Tree{root: root}, nil
}

// Close lets go of the folder.
func (t *Tree) Close() error { return t.root.Close() }

// ErrNotRegular is what Read fails with where there is something that is no file: a
// folder, a pipe.
var ErrNotRegular = errors.New("is not a regular file")

// maxRead bounds what is read of a file that ec2net itself has written.
const maxRead = 1 << 20

// Read reads a regular file by its absolute path on the machine; nil if there
// is none.
func (t *Tree) Read(file string) ([]byte, error) {
	name, err := t.locate(below(file))
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %w", file, ErrNotRegular)
	} else if t.isOwn(below(file)) {
		if err := judgeInfo(file, info); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err == nil && len(data) > maxRead {
		err = fmt.Errorf("%s is longer than %d bytes", file, maxRead)
	}
	return data, err
}

// Content is what a file is to have.
type Content struct {
	Path string // absolute, on the machine
	Text []byte
}

// Write makes one file have its content; see WriteAll.
func (t *Tree) Write(file string, text []byte) (bool, error) {
	wrote, err := t.WriteAll([]Content{{file, text}})
	return len(wrote) > 0, err
}

// WriteAll makes files have their content, and returns the paths of those that
// did not have it already. At any moment, and after a loss of power, a file has
// its old content or its new one and nothing between: each goes into a
// temporary file in the same folder, whose name begins with a dot so that no
// wildcard finds it, and is synced; when all have got that far they are renamed
// in their order, and the folders synced. So what can fail, a full disk most of
// all, fails before the first file is another.
func (t *Tree) WriteAll(files []Content) (wrote []string, err error) {
	names, temps := make([]string, len(files)), make([]string, len(files))
	defer func() {
		for _, temp := range temps {
			if temp != "" {
				t.root.Remove(temp)
			}
		}
	}()
	for i, f := range files {
		name, err := t.folderOf(below(f.Path))
		if err != nil {
			return nil, err
		}
		names[i] = name
		if t.has(name, f.Text) {
			continue
		}
		if info, err := t.root.Lstat(name); err == nil && info.IsDir() {
			return nil, &fs.PathError{Op: "write", Path: f.Path, Err: unix.EISDIR}
		}
		dir := path.Dir(name)
		if err := t.root.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		t.sweep(dir, path.Base(name))
		temps[i] = path.Join(dir, fmt.Sprintf(".%s.%s", path.Base(name), rand.Text()[:temporary]))
		if err := t.writeNew(temps[i], f.Text); err != nil {
			return nil, err
		}
	}
	for i, f := range files {
		if temps[i] == "" {
			continue
		}
		if err := t.root.Rename(temps[i], names[i]); err != nil {
			return wrote, err
		}
		temps[i] = ""
		if err := t.sync(path.Dir(names[i])); err != nil {
			return wrote, err
		}
		wrote = append(wrote, f.Path)
	}
	return wrote, nil
}

// has says whether a file is as writeNew would leave it.
func (t *Tree) has(name string, text []byte) bool {
	info, err := t.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != fileMode {
		return false
	}
	if t.machine && judgeInfo(name, info) != nil {
		return false // somebody else's, who could change it again
	}
	old, err := t.Read("/" + name)
	return err == nil && bytes.Equal(old, text)
}

const fileMode = 0o644

// temporary is how many letters of chance the name of a temporary file ends in,
// abandoned how old one is that nobody writes any more.
const (
	temporary = 8
	abandoned = time.Minute
)

// sweep removes the temporary files of writers that were killed. That is for
// tidiness alone, so no error stops the writer.
func (t *Tree) sweep(dir, base string) {
	entries, _ := fs.ReadDir(t.root.FS(), dir)
	for _, e := range entries {
		end, ok := strings.CutPrefix(e.Name(), "."+base+".")
		if !ok || len(end) != temporary || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			t.root.Remove(path.Join(dir, e.Name()))
		}
	}
}

// writeNew writes a file that must not be there: O_EXCL follows no link that
// somebody has planted at the name.
func (t *Tree) writeNew(name string, text []byte) error {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	// The mode is meant, whatever the umask of udev or dhclient is.
	return errors.Join(err, f.Chmod(fileMode), f.Sync(), f.Close())
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
	name, err := t.locate(below(dir))
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(t.root.FS(), name)
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
	name, err := t.folderOf(below(file))
	if err == nil {
		err = t.root.Remove(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MakeDir makes a folder by its absolute path, and those above it.
func (t *Tree) MakeDir(dir string) error {
	name, err := t.locate(below(dir))
	if err != nil {
		return err
	}
	return t.root.MkdirAll(name, 0o755)
}

// OpenLock opens a file to be locked, and makes it if need be.
func (t *Tree) OpenLock(file string) (*os.File, error) {
	name, err := t.folderOf(below(file))
	if err != nil {
		return nil, err
	}
	return t.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
}
