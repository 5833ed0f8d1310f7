package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// open opens a file or a folder of the tree, and returns its descriptor. A hook opens
// two dozen: openat2(2) walks each path in one call, and like os.Root leaves the tree
// by no link. On any error of openat2 other than ENOENT, os.Root decides, which works on
// every kernel and says what is wrong.
func (t *Tree) open(name string, flags int, mode uint32) (int, error) {
	fd, err := openat2(int(t.dir.Fd()), name, &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_BENEATH})
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOENT):
		return -1, &fs.PathError{Op: "open", Path: "/" + name, Err: err}
	}
	f, err := t.root.OpenFile(name, flags, os.FileMode(mode))
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// openat2 exists since Linux 5.6, unless a sandbox forbids it.
var openat2 = unix.Openat2

// readAll reads a file of this size from its descriptor, and at most one byte more than
// most. A short read is the end of a file that has a size: read(2).
func readAll(fd int, size int64, most int) ([]byte, error) {
	data := make([]byte, min(int(size), most)+1)
	for have := 0; ; {
		n, err := unix.Read(fd, data[have:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		have += n
		if n == 0 || have > most || (size > 0 && have < len(data)) {
			return data[:have], nil
		}
		if have == len(data) {
			data = append(data, make([]byte, min(len(data), most+1-have))...)
		}
	}
}
