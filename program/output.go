package program

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// newOutput returns a file for what a program writes. It is in memory: no disk
// has to be writable for ifdown. It is no pipe: a DHCP client holds it for as long
// as it lives, and may write to it when nobody reads any more.
func newOutput(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// A shell's >/dev/stderr empties the file; what others write then goes to its
	// new end.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tail returns what a program wrote last, for one line of a message: at most 400
// bytes, whole lines, joined by semicolons. Of a last line that is longer it is
// the beginning.
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
		lines = lines[1:] // it has no beginning
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
