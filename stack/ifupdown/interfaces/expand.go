package interfaces

import "strings"

// expand splits text into words as ifupdown does: wordexp(3) of the GNU C library,
// with WRDE_NOCMD. It returns none where wordexp fails: at an open quote, a command,
// or a character that a shell treats specially. Variables, arithmetic and ~ are
// unclear, since they depend on the environment.
func expand(text string) (words []Pattern, unclear bool) {
	e := expansion{text: text}
	for e.at < len(text) {
		if !e.next() {
			return nil, e.unclear
		}
	}
	e.end()
	return e.words, false
}

// expansion is the state of expand.
type expansion struct {
	text    string
	at      int
	words   []Pattern
	word    strings.Builder
	begun   bool // a word has begun; it may be empty
	glob    bool // the word is a pattern
	unclear bool
}

// end ends a word.
func (e *expansion) end() {
	if e.begun {
		e.words = append(e.words, Pattern{Path: e.word.String(), Glob: e.glob})
	}
	e.word.Reset()
	e.begun, e.glob = false, false
}

// next reads the next piece. It reports whether wordexp would go on.
func (e *expansion) next() bool {
	c := e.text[e.at]
	switch {
	case c == ' ' || c == '\t':
		e.at++
		e.end()
		return true
	case strings.IndexByte("*?[", c) >= 0:
		return e.pattern()
	case strings.IndexByte("\n|&;<>(){}", c) >= 0, c == '`':
		return false
	case c == '~' && !e.begun:
		e.unclear = true
		return false
	}
	e.begun = true
	switch c {
	case '\\':
		return e.escaped()
	case '\'':
		return e.singleQuoted()
	case '"':
		return e.doubleQuoted()
	case '$':
		return e.dollar()
	}
	e.add(c)
	return true
}

// add takes a character as it is.
func (e *expansion) add(c byte) {
	e.word.WriteByte(c)
	e.at++
}

func (e *expansion) escaped() bool {
	if e.at++; e.at == len(e.text) {
		return false
	}
	e.add(e.text[e.at])
	return true
}

func (e *expansion) singleQuoted() bool {
	length := strings.IndexByte(e.text[e.at+1:], '\'')
	if length < 0 {
		return false
	}
	e.word.WriteString(e.text[e.at+1:][:length])
	e.at += length + 2
	return true
}

func (e *expansion) doubleQuoted() bool {
	for e.at++; e.at < len(e.text); {
		switch c := e.text[e.at]; c {
		case '"':
			e.at++
			return true
		case '`':
			return false
		case '$':
			if !e.dollar() {
				return false
			}
		case '\\':
			if !e.escapedInQuotes() {
				return false
			}
		default:
			e.add(c)
		}
	}
	return false
}

// escapedInQuotes reads a backslash within double quotes, which escapes only $, `, "
// and itself.
func (e *expansion) escapedInQuotes() bool {
	if e.at+1 < len(e.text) && strings.IndexByte("$`\"\\", e.text[e.at+1]) < 0 {
		e.add('\\')
		return true
	}
	return e.escaped()
}

// dollar reads a $, which is a plain character before a quote and at the end.
func (e *expansion) dollar() bool {
	switch rest := e.text[e.at+1:]; {
	case rest == "" || rest[0] == '"' || rest[0] == '\'':
		e.add('$')
		return true
	case rest[0] == '(' && !strings.HasPrefix(rest, "(("):
		return false // a command
	}
	e.unclear = true
	return false
}

// pattern reads the rest of a word from its first *, ? or [ on. There the GNU C
// library has rules of its own: any blank ends the word, every other character is
// allowed, a quote need not be closed, and a quoted * is still a wildcard.
func (e *expansion) pattern() bool {
	e.begun, e.glob = true, true
	var quote byte
	for e.at < len(e.text) {
		switch c := e.text[e.at]; {
		case strings.IndexByte(" \t\n", c) >= 0:
			return true
		case (c == '\'' || c == '"') && (quote == 0 || quote == c):
			quote ^= c
			e.at++
		case c == '$' && quote != '\'':
			if !e.dollar() {
				return false
			}
		case c == '\\' && quote != 0:
			if !e.escapedInQuotes() {
				return false
			}
		case c == '\\':
			if !e.escaped() {
				return false
			}
		default:
			e.add(c)
		}
	}
	return true
}
