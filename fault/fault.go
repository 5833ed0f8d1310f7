// Package fault holds what an error says about itself besides its text: the exit
// status that it leads to, and what the reader can do about it.
package fault

import "errors"

// Status is an exit status of ec2net. The numbers are part of what ec2net
// promises: "ec2net help statuses" prints them.
type Status int

// The exit statuses.
const (
	Done     Status = 0 // done, or nothing to do
	Differs  Status = 1 // something differs
	Usage    Status = 2 // wrong usage or settings: it will be wrong again
	Facts    Status = 3 // IMDS could not be asked, or its answer cannot be used
	Template Status = 4 // a template does not render, or is not to be trusted
	System   Status = 5 // the system refused: a file, netlink, a program
	NoRetry  Status = 6 // do not try again: gone, unmanaged, the primary
)

// stater is an error that knows its status. Every error type of the product is
// one, which TestErrors holds: only what the system says is not.
type stater interface{ Status() Status }

// Of gives the status of an error: Done for nil, the outermost status that an
// error of the chain knows, and System for what the system says (an errno, a
// deadline). Of joined errors the first in the order of deciding counts.
func Of(err error) Status {
	if err == nil {
		return Done
	}
	switch e := err.(type) {
	case stater:
		return e.Status()
	case interface{ Unwrap() error }:
		if cause := e.Unwrap(); cause != nil {
			return Of(cause)
		}
	case interface{ Unwrap() []error }:
		return ofAll(e.Unwrap())
	}
	return System
}

// deciding is which status counts when several things went wrong: that the ENI is
// gone, or not ec2net's, settles the rest; then what another try may mend, since
// that try meets the others again.
var deciding = []Status{NoRetry, Facts, System, Usage, Template, Differs}

func ofAll(all []error) Status {
	var found []Status
	for _, err := range all {
		if err != nil {
			found = append(found, Of(err))
		}
	}
	for _, s := range deciding {
		for _, f := range found {
			if f == s {
				return s
			}
		}
	}
	return System
}

// Hint gives what the reader can do about an error; empty if no error of the chain
// knows.
func Hint(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// Error is an error with a status, where no type of its own is needed.
type Error struct {
	Kind Status
	Err  error
	Try  string // the hint; empty for that of the cause
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Status is the exit status.
func (e *Error) Status() Status { return e.Kind }

// Hint is e's own, or that of its cause.
func (e *Error) Hint() string {
	if e.Try == "" {
		return Hint(e.Err)
	}
	return e.Try
}

// As gives an error a status; nil stays nil.
func As(kind Status, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Err: err}
}
