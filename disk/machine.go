package disk

import (
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenMachine opens the machine's own root folder. Unlike another tree, it follows
// an absolute link on the way to a file: /var may be elsewhere. Root obeys the files
// in the folders own, so these, and all on the way to them, have to belong to root or
// the caller and be writable by nobody else.
func OpenMachine(own ...string) (*Tree, error) {
	t, err := OpenTree("/", false)
	if err != nil {
		return nil, err
	}
	t.machine, t.own = true, own
	return t, nil
}

// isOwn reports whether a path is in one of the folders own.
func (t *Tree) isOwn(name string) bool {
	return slices.ContainsFunc(t.own, func(dir string) bool { return strings.HasPrefix("/"+name+"/", dir+"/") })
}

// locate follows the links in a path on the machine, since os.Root follows no
// absolute one. A part that does not exist yet is no error: the caller may make it.
func (t *Tree) locate(name string) (string, error) {
	if !t.machine {
		return name, nil
	}
	own := t.isOwn(name)
	at, rest := ".", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		switch rest[0] { // of a link's target
		case "..": // no part of at is a link
			at, rest = path.Dir(at), rest[1:]
			continue
		case "", ".":
			rest = rest[1:]
			continue
		}
		next := path.Join(at, rest[0])
		info, err := t.root.Lstat(next)
		if os.IsNotExist(err) {
			return path.Join(at, path.Join(rest...)), nil
		} else if err != nil {
			return "", err
		}
		if own {
			if err := judgeInfo("/"+next, info); err != nil {
				return "", err
			}
		}
		rest = rest[1:]
		if info.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "open", Path: "/" + name, Err: unix.ELOOP}
		}
		target, err := t.root.Readlink(next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

// folderOf locates the folder of a file, and leaves the file's own name: a link there
// is not followed.
func (t *Tree) folderOf(name string) (string, error) {
	dir, err := t.locate(path.Dir(name))
	return path.Join(dir, path.Base(name)), err
}
