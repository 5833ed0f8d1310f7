// Package disk is where files are read that root is going to obey, and
// written that others are going to read.
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

// UntrustedError says that somebody else could have written a file.
type UntrustedError struct {
	// Path is the file, or the folder above it, that is open to others.
	Path string
	Why  string
	fix  string
}

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("not to be trusted: %s %s", e.Path, e.Why)
}

// Status is that of the system: a unit tries again, since a mended mode tells nobody.
func (*UntrustedError) Status() fault.Status { return fault.System }

// Hint says how to mend it.
func (e *UntrustedError) Hint() string { return e.fix }

// ReadTrusted reads a regular file of at most this many bytes, if nobody but root
// and the caller could have put it there: the file and every folder above it
// belong to one of the two and are not writable by group or others. (A sticky
// folder such as /tmp may be: what is in it and belongs to root stays root's.)
//
// The path is walked from the root folder, each part opened below the last one
// and judged by its descriptor, as in safe_path of OpenSSH: what was judged is
// what is read, whatever happens to the names meanwhile. A symbolic link is
// followed only out of a folder that was judged good, and if it belongs to one
// of the two itself.
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

// maxLinks is the kernel's own limit of symbolic links in one path (path_resolution(7)).
const maxLinks = 40

func openTrusted(path string) (*os.File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir, err := openRoot()
	if err != nil {
		return fail(err)
	}
	// The folders above dir, so that ".." in a link leads back to one that was
	// judged, not to wherever the kernel thinks it is now.
	stack := []*os.File{dir}
	defer func() {
		for _, f := range stack {
			f.Close()
		}
	}()
	rest := strings.Split(abs, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		dir := stack[len(stack)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				dir.Close()
				stack = stack[:len(stack)-1]
			}
			continue
		}
		name := filepath.Join(dir.Name(), part)
		if target, err := readlinkat(dir, part); err == nil {
			if err := judgeLink(dir, part); err != nil {
				return nil, err
			}
			if links++; links > maxLinks {
				return fail(unix.ELOOP)
			}
			if strings.HasPrefix(target, "/") {
				for _, f := range stack[1:] {
					f.Close()
				}
				stack = stack[:1]
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		// A folder need not be readable. Opening a FIFO must not wait for a writer.
		flags := unix.O_PATH
		if len(rest) == 0 {
			flags = unix.O_RDONLY | unix.O_NONBLOCK
		}
		fd, err := unix.Openat(int(dir.Fd()), part, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail(err)
		}
		f := os.NewFile(uintptr(fd), name)
		stack = append(stack, f)
		if err := judge(f); err != nil {
			return nil, err
		}
	}
	last := stack[len(stack)-1]
	info, err := last.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	stack = stack[:len(stack)-1]
	return last, nil
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

// judgeLink looks at a link itself: in a sticky folder anybody can make one.
func judgeLink(dir *os.File, name string) error {
	path := filepath.Join(dir.Name(), name)
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return judgeStat(path, st.Uid, st.Mode)
}

// judge looks at an open file or folder.
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
