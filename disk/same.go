package disk

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Same reports whether two absolute paths lead to one file or folder, by whatever
// links. A path that leads nowhere is the same only as itself.
func (t *Tree) Same(a, b string) (bool, error) {
	if below(a) == below(b) {
		return true, nil
	}
	first, err := t.stat(a)
	if err != nil || first == nil {
		return false, err
	}
	second, err := t.stat(b)
	if err != nil || second == nil {
		return false, err
	}
	return os.SameFile(first, second), nil
}

// Masked reports whether a file is a link to /dev/null, by which an administrator hides what
// others have there: systemd.network(5).
func (t *Tree) Masked(file string) (bool, error) { return t.Same(file, "/dev/null") }

// IsFolder reports whether an absolute path leads to a folder.
func (t *Tree) IsFolder(dir string) (bool, error) {
	info, err := t.stat(dir)
	return info != nil && info.IsDir(), err
}

// Modified returns when a file was last written.
func (t *Tree) Modified(file string) (time.Time, error) {
	info, err := t.stat(file)
	if err == nil && info == nil {
		err = &os.PathError{Op: "stat", Path: file, Err: fs.ErrNotExist}
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// stat follows the links of a path; nil if it leads nowhere.
func (t *Tree) stat(file string) (os.FileInfo, error) {
	name, err := t.locate(below(file))
	if err != nil {
		return nil, nowhere(err)
	}
	info, err := t.root.Stat(name)
	if err != nil {
		return nil, nowhere(err)
	}
	return info, nil
}

// nowhere drops an error that means that a path leads nowhere.
func nowhere(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
