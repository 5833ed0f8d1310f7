// Package fault gives an error an exit status, and a hint that says what the reader can
// do.
package fault

import "errors"

// Status is an exit status of ec2net. The numbers are part of the interface:
// "ec2net help statuses" prints them.
type Status int

// The exit statuses of ec2net.
const (
	Done     Status = 0 // done, or nothing to do
	Differs  Status = 1 // something differs
	Usage    Status = 2 // wrong usage or settings, which a person has to correct
	Facts    Status = 3 // IMDS did not answer, or its answer is unusable
	Template Status = 4 // a template does not render, or is not trusted
	System   Status = 5 // the system refused: a file, netlink, a program
	NoRetry  Status = 6 // do not retry: gone, left alone, the primary
)

// stater is an error that knows its status. Every error type of the product is one, which
// TestErrors checks; errors of the system are not.
type stater interface{ Status() Status }

// Of returns the status of an error: Done for nil, else the outermost status in the
// chain, else System (an errno, a deadline). Of joined errors it takes the status that
// comes first in deciding.
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

// deciding orders the statuses for when several things went wrong: the first one counts.
// If the ENI is gone or left alone, nothing else matters. Errors that a retry may cure
// come next, since the retry meets the rest again.
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

// Hint returns the outermost hint in the chain of an error, or "".
func Hint(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// Error is an error with a status, and perhaps a hint.
type Error struct {
	Kind Status
	Err  error
	Try  string // the hint; empty: that of the cause
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Status is the exit status.
func (e *Error) Status() Status { return e.Kind }

// Hint returns e's own hint, else that of its cause.
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
