package main

import (
	"errors"
	"slices"
	"syscall"

	"ec2net/fault"
)

// lasting are the answers of the system about a file, errno(3), that stay the same
// until a person mends it.
var lasting = []syscall.Errno{
	syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENXIO,
	syscall.EACCES, syscall.EPERM,
}

// passes reports whether an error is that the system could not do something just now:
// no descriptor is left, or the disk does not answer.
func passes(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && !slices.Contains(lasting, errno)
}

// statusOf is the exit status of an error. Settings and templates that could not be
// read just now are not wrong: units do not try again what is.
func statusOf(err error) fault.Status {
	status := fault.Of(err)
	if (status == fault.Usage || status == fault.Template) && passes(err) {
		return fault.System
	}
	return status
}
