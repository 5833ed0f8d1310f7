package disk

import (
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenMachine opens the machine's own root folder. Unlike in other trees, an
// absolute link on the way to a file is followed: /var may be elsewhere. Of what
// is in the folders own, and on the way to them, nobody but root and the caller
// may have had a hand in it: there root obeys what stands in the files.
func OpenMachine(own ...string) (*Tree, error) {
	t, err := OpenTree("/", false)
	if err != nil {
		return nil, err
	}
	t.machine, t.own = true, own
	return t, nil
}

// isOwn says whether a path is in one of the folders that are judged.
func (t *Tree) isOwn(name string) bool {
	return slices.ContainsFunc(t.own, func(dir string) bool { return strings.HasPrefix("/"+name+"/", dir+"/") })
}

// locate follows the links in a path on the machine, since os.Root follows no
// absolute one. What is not there yet is no error: it is about to be made.
func (t *Tree) locate(name string) (string, error) {
	if !t.machine {
		return name, nil
	}
	own := t.isOwn(name)
	at, rest := ".", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
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
		rest = append(strings.Split(below(target), "/"), rest...)
	}
	return at, nil
}

// folderOf is where a file is to be written: links on the way are followed, one
// in the place of the file is not.
func (t *Tree) folderOf(name string) (string, error) {
	dir, err := t.locate(path.Dir(name))
	return path.Join(dir, path.Base(name)), err
}
