package program

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// newOutput returns a file for the output of a program. It is in memory, so that ifdown
// needs no writable disk. It is not a pipe, since a DHCP client keeps it open as long as
// it runs, and may write when nobody reads any more.
func newOutput(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// A shell's >/dev/stderr truncates the file. With O_APPEND other writers go on at its
	// new end.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tail returns the last lines of a program's output in one line, for a message: whole
// lines, joined by semicolons, at most 400 bytes. If the very last one is longer, tail
// cuts it.
func tail(output *os.File) string {
	const most, ample = 400, 64 << 10
	info, err := output.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, min(info.Size(), ample))
	n, _ := output.ReadAt(text, info.Size()-int64(len(text)))
	lines := strings.Split(string(text[:n]), "\n")
	if info.Size() > ample && len(lines) > 1 {
		lines = lines[1:] // its beginning is missing
	}
	var said string
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.Join(strings.Fields(lines[i]), " ")
		switch {
		case line == "":
		case said == "" && len(line) > most:
			return strings.ToValidUTF8(line[:most], "") + "..."
		case said == "":
			said = line
		case len(line)+len("; ")+len(said) > most:
			return said
		default:
			said = line + "; " + said
		}
	}
	return said
}
