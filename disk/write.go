package disk

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is the root of a file system: "/" itself, or any folder below which to read
// and write files. No link leads out of it.
type Tree struct {
	root *os.Root
	dir  *os.File // the same folder
	// machine and own are those of OpenMachine.
	machine bool
	own     []string
	sole    *sole
}

// OpenTree opens dir, and with create makes it first.
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
	top, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &Tree{root: root, dir: top}, nil
}

// Close lets go of the folder.
func (t *Tree) Close() error { return errors.Join(t.dir.Close(), t.root.Close()) }

// ErrNotRegular is the error of Read for a folder, a pipe or the like.
var ErrNotRegular = errors.New("is not a regular file")

// maxRead bounds what Read reads, in bytes.
const maxRead = 1 << 20

// Read reads a regular file by its absolute path on the machine; nil if there
// is none.
func (t *Tree) Read(file string) ([]byte, error) {
	name, err := t.locate(below(file))
	if err != nil {
		return nil, err
	}
	return t.sole.file(name, func() ([]byte, error) { return t.read(file, name) })
}

func (t *Tree) read(file, name string) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	fd, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file, Err: err}
	} else if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s %w", file, ErrNotRegular)
	} else if len(t.own) > 0 && t.isOwn(below(file)) {
		if err := judgeStat(file, st.Uid, st.Mode); err != nil {
			return nil, err
		}
	}
	data, err := readAll(fd, st.Size, maxRead)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: file, Err: err}
	}
	if len(data) > maxRead {
		return data, fmt.Errorf("%s is longer than %d bytes", file, maxRead)
	}
	return data, nil
}

// Content is the text that a file is to have.
type Content struct {
	Path string // absolute
	Text []byte
}

// Write makes one file have its content; see WriteAll.
func (t *Tree) Write(file string, text []byte) (bool, error) {
	wrote, err := t.WriteAll([]Content{{file, text}})
	return len(wrote) > 0, err
}

// WriteAll makes files have their content, and returns the paths of those that it
// wrote because they did not have it yet. At any moment, and after a loss of power, a
// file has its old content or its new one and nothing between. WriteAll writes and
// syncs each content as a temporary file in the same folder, whose name begins with a
// dot so that no wildcard finds it. Only then it renames them, in their order, and
// syncs the folders. So a full disk, for one, fails it before the first file changes.
func (t *Tree) WriteAll(files []Content) (wrote []string, err error) {
	all := make([]written, 0, len(files))
	defer func() {
		for _, w := range all {
			w.close()
			if w.changed != "" {
				t.sole.changed(w.changed)
			}
		}
	}()
	for _, f := range files {
		w, err := t.write(f)
		all = append(all, w)
		if err != nil {
			return nil, failed("write", f.Path, err)
		}
	}
	for i, f := range files {
		if all[i].temp == "" {
			continue
		}
		if err := all[i].rename(); err != nil {
			return wrote, failed("write", f.Path, err)
		}
		wrote = append(wrote, f.Path)
	}
	return wrote, nil
}

// failed names the caller's file in an error, not a temporary file or a folder. An
// UntrustedError stays, since it names the file or folder to mend.
func failed(op, file string, err error) error {
	var untrusted *UntrustedError
	if errors.As(err, &untrusted) {
		return err
	}
	if inner := (*fs.PathError)(nil); errors.As(err, &inner) {
		err = inner.Err
	}
	return &fs.PathError{Op: op, Path: file, Err: err}
}

// written is a file that WriteAll is writing. temp has its content; it is empty if the
// file has the content already.
type written struct {
	folder
	base, temp string
	changed    string // its name in the tree, if its content differed
}

func (t *Tree) write(f Content) (written, error) {
	name, err := t.folderOf(below(f.Path))
	if err != nil {
		return written{folder: noFolder}, err
	}
	dir, err := t.makeFolder(path.Dir(name))
	w := written{folder: dir, base: path.Base(name)}
	if err != nil {
		return w, err
	}
	if has, err := w.has(f.Text, t.machine); has || err != nil {
		return w, err
	}
	w.sweep(w.base)
	temp := fmt.Sprintf(".%s.%s", w.base, rand.Text()[:temporary])
	if err := w.create(temp, f.Text); err != nil {
		_ = w.remove(temp)
		return w, err
	}
	w.temp, w.changed = temp, name
	return w, nil
}

// has reports whether the file is as create would leave it; with judged, also whether
// only root and the caller can change it.
func (w written) has(text []byte, judged bool) (bool, error) {
	st, err := w.stat(w.base)
	switch kind := st.Mode & unix.S_IFMT; {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case kind == unix.S_IFDIR:
		return false, unix.EISDIR
	case kind != unix.S_IFREG, st.Mode&0o777 != fileMode, st.Size != int64(len(text)):
		return false, nil
	case judged && judgeStat(w.base, st.Uid, st.Mode) != nil:
		return false, nil
	}
	old, err := w.read(w.base, len(text))
	return err == nil && bytes.Equal(old, text), nil
}

func (w *written) rename() error {
	if err := unix.Renameat(int(w.folder), w.temp, int(w.folder), w.base); err != nil {
		return err
	}
	w.temp = ""
	return unix.Fsync(int(w.folder))
}

// close removes the temporary file, unless it was renamed.
func (w written) close() {
	if w.temp != "" {
		_ = w.remove(w.temp)
	}
	w.folder.close()
}

const fileMode = 0o644

// The name of a temporary file ends in this many random letters. One that is this old
// is abandoned.
const (
	temporary = 8
	abandoned = time.Minute
)

// below returns an absolute path as one that os.Root takes.
func below(file string) string {
	if !path.IsAbs(file) {
		file = "/" + file
	}
	return cmp.Or(path.Clean(file)[1:], ".")
}

// List names the files of a folder by its absolute path, sorted; none if there
// is no such folder.
func (t *Tree) List(dir string) ([]string, error) {
	name, err := t.locate(below(dir))
	if err != nil {
		return nil, err
	}
	return t.sole.list(name, func() ([]string, error) { return t.list(name) })
}

func (t *Tree) list(name string) ([]string, error) {
	dir, err := t.openFolder(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer dir.close()
	names, err := dir.names()
	slices.Sort(names)
	return names, err
}

// Overwrite writes a short file that exists in place, for which a full disk has room. If the
// process is killed meanwhile, the file has the new text and then the rest of the old one.
func (t *Tree) Overwrite(file string, text []byte) error {
	name, err := t.folderOf(below(file))
	if err != nil {
		return err
	}
	defer t.sole.changed(name)
	dir, err := t.openFolder(path.Dir(name))
	if err == nil {
		err = dir.overwrite(path.Base(name), text)
		dir.close()
	}
	if err != nil {
		return failed("write", file, err)
	}
	return nil
}

// Remove removes a file by its absolute path, if it is there.
func (t *Tree) Remove(file string) error {
	name, err := t.folderOf(below(file))
	if err != nil {
		return err
	}
	defer t.sole.changed(name)
	dir, err := t.openFolder(path.Dir(name))
	if err == nil {
		err = dir.remove(path.Base(name))
		dir.close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return failed("remove", file, err)
	}
	return nil
}

// MakeDir makes a folder by its absolute path, and those above it.
func (t *Tree) MakeDir(dir string) error {
	name, err := t.locate(below(dir))
	if err != nil {
		return err
	}
	defer t.sole.changed(name)
	return t.makeAll(name)
}

// OpenLock opens a lock file, and makes it if need be.
func (t *Tree) OpenLock(file string) (*os.File, error) {
	name, err := t.folderOf(below(file))
	if err != nil {
		return nil, err
	}
	defer t.sole.opened(name)
	fd, err := t.open(name, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), file), nil
}
