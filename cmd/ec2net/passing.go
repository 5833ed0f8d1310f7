package main

import (
	"errors"
	"slices"
	"syscall"

	"ec2net/fault"
)

// lasting are the errors of a file, errno(3), that last until a person mends them.
var lasting = []syscall.Errno{
	syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENXIO,
	syscall.EACCES, syscall.EPERM,
}

// passes reports whether an error of the system may pass by itself: no descriptor is
// left, or the disk does not answer.
func passes(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && !slices.Contains(lasting, errno)
}

// statusOf returns the exit status of an error. Settings and templates that cannot be
// read just now are not wrong, so a unit has to try again.
func statusOf(err error) fault.Status {
	status := fault.Of(err)
	if (status == fault.Usage || status == fault.Template) && passes(err) {
		return fault.System
	}
	return status
}
