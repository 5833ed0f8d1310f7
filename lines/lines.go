// Package lines says what is wrong with a line of a text, and where.
package lines

import (
	"fmt"
	"strings"

	"ec2net/fault"
)

// Error is a line of rendered text that cannot be.
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

// Status is that of a template which does not render.
func (e *Error) Status() fault.Status { return fault.Template }

// Clip cuts a line that is too long for a message.
func Clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// Words splits a line at blanks and tabs, as ip(8) and ifupdown do: Unicode has
// more kinds of space, which neither of them knows.
func Words(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
}
