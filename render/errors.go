package render

import (
	"errors"
	"fmt"
	"strings"

	"ec2net/fault"
)

// Error says which file does not render, from which template, and why not.
type Error struct {
	// File is the file to render, such as eth1.cfg; empty if the error is about all.
	File     string
	Template Source
	Err      error
}

func (e *Error) Error() string {
	// text/template itself names the template, the line and the column.
	cause, named := strings.CutPrefix(e.Err.Error(), "template: ")
	place := e.Template.Path
	if place == "" {
		place = e.Template.Name
	}
	if !named && (e.File == "" || !strings.Contains(cause, place)) {
		cause = place + ": " + cause
	}
	if e.File == "" {
		return "cannot use " + cause
	}
	return fmt.Sprintf("cannot render %s: %s", e.File, cause)
}

func (e *Error) Unwrap() error { return e.Err }

// Status is the status of an unusable template.
func (*Error) Status() fault.Status { return fault.Template }

// Hint says what the reader can do about it.
func (e *Error) Hint() string {
	var hinted interface{ Hint() string }
	if errors.As(e.Err, &hinted) {
		return hinted.Hint()
	}
	text := e.Err.Error()
	switch {
	case strings.Contains(text, "can't evaluate field"):
		return `"ec2net help templates" lists the fields`
	case strings.Contains(text, "not defined"):
		return `"ec2net help templates" lists the functions and blocks`
	}
	if e.Template.Path != "" {
		return fmt.Sprintf("%q shows the built-in template", "ec2net templates show --built-in "+e.builtIn())
	}
	return ""
}

func (e *Error) builtIn() string {
	_, k, found := strings.Cut(strings.TrimSuffix(e.Template.Name, suffix), ".")
	if !found {
		return "cfg"
	}
	return k
}

func (e *unknownBlockError) Hint() string {
	return "the blocks are " + strings.Join(e.known, ", ")
}

// handsOffError says that ec2net would write a file once, and then leave the interface alone,
// half up, because of it.
type handsOffError struct{ name string }

func (e *handsOffError) Error() string {
	return "the output says EC2SYNC=no, which is for a file that ec2net is not to write"
}

// Status is that of a template with a fault.
func (*handsOffError) Status() fault.Status { return fault.Template }

// Hint says how to leave an interface alone.
func (e *handsOffError) Hint() string {
	return "to leave " + e.name + " alone, name it in EC2NET_UNMANAGED in /etc/default/ec2net"
}
