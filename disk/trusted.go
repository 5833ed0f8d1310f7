// Package disk reads files that root obeys, and writes a file whole or not at all.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ec2net/fault"

	"golang.org/x/sys/unix"
)

// UntrustedError says that users other than root and the caller could have written a
// file.
type UntrustedError struct {
	// Path is the file, or the folder above it, that others could have written.
	Path string
	Why  string
	fix  string
}

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("not trusted: %s %s", e.Path, e.Why)
}

// Status is that of the system, so that a unit tries again: nothing tells it when the
// mode is mended.
func (*UntrustedError) Status() fault.Status { return fault.System }

// Hint is the command that mends it.
func (e *UntrustedError) Hint() string { return e.fix }

// ReadTrusted reads a regular file of at most this many bytes that only root or the
// caller can have put there: the file and every folder above it belong to one of the
// two, and neither group nor others may write to them. (They may write to a sticky
// folder such as /tmp, where root's files stay root's.)
//
// ReadTrusted walks the path from the root folder, opens each part below the last
// one and judges it by its descriptor, as safe_path of OpenSSH does: it reads what it
// has judged, whatever happens to the names meanwhile. It follows a symbolic link
// only if the link belongs to root or the caller, out of a trusted folder.
func ReadTrusted(path string, most int64) ([]byte, error) {
	f, err := openTrusted(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is longer than %d bytes", path, most)
	}
	return data, err
}

// maxLinks is the kernel's limit of symbolic links in one path (path_resolution(7)).
const maxLinks = 40

func openTrusted(path string) (*os.File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := openRoot()
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	w := walk{path: path, stack: []*os.File{root}, rest: strings.Split(abs, "/")}
	defer w.close()
	for len(w.rest) > 0 {
		if err := w.step(); err != nil {
			return nil, err
		}
	}
	last := w.last()
	info, err := last.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	w.stack = w.stack[:len(w.stack)-1]
	return last, nil
}

// walk opens a path part by part, each below the last one.
type walk struct {
	path string
	// stack has the root folder and each part down to where the walk is: ".." in a
	// link leads back to a folder that was judged, wherever its name leads now.
	stack []*os.File
	rest  []string
	links int
}

func (w *walk) last() *os.File { return w.stack[len(w.stack)-1] }

func (w *walk) close() { w.cut(0) }

// cut closes all but the first n of the stack.
func (w *walk) cut(n int) {
	for _, f := range w.stack[n:] {
		f.Close()
	}
	w.stack = w.stack[:n]
}

// step goes on by one part.
func (w *walk) step() error {
	part := w.rest[0]
	w.rest = w.rest[1:]
	switch part {
	case "", ".":
		return nil
	case "..":
		w.cut(max(1, len(w.stack)-1))
		return nil
	}
	if target, err := readlinkat(w.last(), part); err == nil {
		return w.follow(part, target)
	}
	// A folder need not be readable: O_PATH. Opening a FIFO must not wait for a
	// writer: O_NONBLOCK.
	flags := unix.O_PATH
	if len(w.rest) == 0 {
		flags = unix.O_RDONLY | unix.O_NONBLOCK
	}
	fd, err := unix.Openat(int(w.last().Fd()), part, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: w.path, Err: err}
	}
	f := os.NewFile(uintptr(fd), filepath.Join(w.last().Name(), part))
	w.stack = append(w.stack, f)
	return judge(f)
}

// follow goes on where a symbolic link leads.
func (w *walk) follow(part, target string) error {
	if err := judgeLink(w.last(), part); err != nil {
		return err
	}
	if w.links++; w.links > maxLinks {
		return &os.PathError{Op: "open", Path: w.path, Err: unix.ELOOP}
	}
	if strings.HasPrefix(target, "/") {
		w.cut(1)
	}
	w.rest = append(strings.Split(target, "/"), w.rest...)
	return nil
}

func openRoot() (*os.File, error) {
	f, err := os.Open("/")
	if err != nil {
		return nil, err
	}
	if err := judge(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readlinkat(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", errors.New("the link is too long")
	}
	return string(buf[:n]), nil
}

// judgeLink judges a link itself: in a sticky folder anybody can make one.
func judgeLink(dir *os.File, name string) error {
	path := filepath.Join(dir.Name(), name)
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return judgeStat(path, st.Uid, st.Mode)
}

// judge judges an open file or folder.
func judge(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return judgeStat(f.Name(), st.Uid, st.Mode)
}

func judgeInfo(path string, info os.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	return judgeStat(path, st.Uid, st.Mode)
}

func judgeStat(path string, owner, mode uint32) error {
	if owner != 0 && int(owner) != os.Geteuid() {
		return &UntrustedError{Path: path, Why: fmt.Sprintf("belongs to user %d", owner), fix: "chown -h root " + path}
	}
	kind := mode & unix.S_IFMT
	sticky := kind == unix.S_IFDIR && mode&unix.S_ISVTX != 0
	if mode&0o022 != 0 && !sticky && kind != unix.S_IFLNK { // the mode of a link means nothing
		return &UntrustedError{Path: path, Why: "can be written by its group or by others", fix: "chmod go-w " + path}
	}
	return nil
}
