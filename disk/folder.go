package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// folder is the descriptor of a folder. Its methods act there by a file's name, whatever
// becomes of the folder's path, and follow no link.
type folder int

const noFolder folder = -1

// openFolder opens a folder of the tree.
func (t *Tree) openFolder(dir string) (folder, error) {
	fd, err := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return folder(fd), err
}

// makeFolder opens a folder, and makes it, and those above it, if need be.
func (t *Tree) makeFolder(dir string) (folder, error) {
	d, err := t.openFolder(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if err := t.makeAll(dir); err != nil {
		return noFolder, err
	}
	return t.openFolder(dir)
}

// makeAll makes a folder, and those above it, that everybody can read, whatever the umask:
// systemd-networkd, which is not root, reads /etc/systemd/network.
func (t *Tree) makeAll(dir string) error {
	err := t.root.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) && dir != "." {
		if err := t.makeAll(path.Dir(dir)); err != nil {
			return err
		}
		err = t.root.Mkdir(dir, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return t.root.Chmod(dir, 0o755)
}

func (d folder) close() {
	if d != noFolder {
		unix.Close(int(d))
	}
}

func (d folder) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(int(d), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// remove removes a file or an empty folder.
func (d folder) remove(name string) error {
	err := unix.Unlinkat(int(d), name, 0)
	if errors.Is(err, unix.EISDIR) {
		return unix.Unlinkat(int(d), name, unix.AT_REMOVEDIR)
	}
	return err
}

// read reads a regular file of known size.
func (d folder) read(name string, size int) ([]byte, error) {
	fd, err := unix.Openat(int(d), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, int64(size), maxRead)
}

// create writes a file that must not exist: O_EXCL follows no link that somebody has
// planted at the name.
func (d folder) create(name string, text []byte) error {
	fd, err := unix.Openat(int(d), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(text)
	// Whatever the umask of udev or dhclient is.
	return errors.Join(err, f.Chmod(fileMode), f.Sync(), f.Close())
}

// overwrite writes a file that exists, in place.
func (d folder) overwrite(name string, text []byte) error {
	fd, err := unix.Openat(int(d), name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}

// names lists the files in the folder, unsorted. Call it once.
func (d folder) names() ([]string, error) {
	var names []string
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.ReadDirent(int(d), buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot list a folder: %w", err)
		case n == 0:
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// sweep removes the temporary files of killed writers of a file. It ignores errors,
// since nothing depends on it.
func (d folder) sweep(base string) {
	names, _ := d.names()
	for _, name := range names {
		end, ok := strings.CutPrefix(name, "."+base+".")
		if !ok || len(end) != temporary {
			continue
		}
		st, err := d.stat(name)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && time.Since(time.Unix(st.Mtim.Unix())) > abandoned {
			_ = d.remove(name)
		}
	}
}
