// Package lines says what is wrong with a line of a text, and where.
package lines

import (
	"fmt"
	"strings"

	"ec2net/fault"
)

// Error says what is wrong with a line of a rendered text.
type Error struct {
	Number int // 1 is the first line
	Text   string
	Why    string
	Try    string // what the reader can do about it
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d of the output, %q: %s", e.Number, Clip(e.Text), e.Why)
}

// Hint says what the reader can do about it.
func (e *Error) Hint() string { return e.Try }

// Status is the status of a template that does not render.
func (e *Error) Status() fault.Status { return fault.Template }

// Clip shortens a line so that a message can quote it.
func Clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// Words splits a line at blanks and tabs only, as ip(8) and ifupdown do.
func Words(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
}
