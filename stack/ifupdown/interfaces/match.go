package interfaces

import "strings"

// HasMeta reports whether a part of a pattern has a wildcard or an escape.
func HasMeta(part string) bool { return strings.ContainsAny(part, `*?[\`) }

// Match reports whether a pattern of glob(7) without slashes matches a name, byte by
// byte, as glob(3) does in the C locale. No wildcard matches a leading dot.
func Match(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".") && !strings.HasPrefix(pattern, `\.`) {
		return false
	}
	// Where the last * is, and up to where in the name it matches so far.
	star, tried := -1, 0
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, tried = p, n
			p++
			continue
		}
		if length, ok := matchOne(pattern[p:], name[n]); ok {
			p += length
			n++
			continue
		}
		if star < 0 {
			return false
		}
		tried++
		p, n = star+1, tried
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// MatchPath reports whether a pattern matches a path, part by part.
func MatchPath(pattern, file string) bool {
	slashes := func(r rune) bool { return r == '/' }
	parts, names := strings.FieldsFunc(pattern, slashes), strings.FieldsFunc(file, slashes)
	if len(parts) != len(names) {
		return false
	}
	for i := range parts {
		if !Match(parts[i], names[i]) {
			return false
		}
	}
	return true
}

// matchOne reports whether the first element of a pattern matches a character, and
// returns the element's length.
func matchOne(pattern string, c byte) (length int, ok bool) {
	switch {
	case pattern == "":
		return 0, false
	case pattern[0] == '?':
		return 1, true
	case pattern[0] == '\\' && len(pattern) > 1:
		return 2, pattern[1] == c
	case pattern[0] == '[':
		if set, negated, ok := bracket(pattern); ok {
			return set.length, set.has(c) != negated
		}
	}
	return 1, pattern[0] == c
}

// set has the characters of a bracket expression.
type set struct {
	length  int // of the expression, with its brackets
	chars   [256]bool
	classes []func(byte) bool
}

func (s *set) has(c byte) bool {
	for _, class := range s.classes {
		if class(c) {
			return true
		}
	}
	return s.chars[c]
}

// bracket reads a bracket expression. Without its end it is a plain [, and ok is
// false.
func bracket(pattern string) (s *set, negated, ok bool) {
	s = new(set)
	at := 1
	if at < len(pattern) && (pattern[at] == '!' || pattern[at] == '^') {
		negated = true
		at++
	}
	for first := true; at < len(pattern); first = false {
		if pattern[at] == ']' && !first {
			s.length = at + 1
			return s, negated, true
		}
		if name, _, found := strings.Cut(strings.TrimPrefix(pattern[at:], "[:"), ":]"); found && strings.HasPrefix(pattern[at:], "[:") {
			if class, known := classes[name]; known {
				s.classes = append(s.classes, class)
			}
			at += len(name) + 4
			continue
		}
		low, width := bracketChar(pattern[at:])
		at += width
		high := low
		if rest := pattern[at:]; len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
			high, width = bracketChar(rest[1:])
			at += 1 + width
		}
		for c := int(low); c <= int(high); c++ {
			s.chars[c] = true
		}
	}
	return nil, false, false
}

// bracketChar reads a character of a bracket expression, perhaps after a backslash.
func bracketChar(rest string) (c byte, width int) {
	if rest[0] == '\\' && len(rest) > 1 {
		return rest[1], 2
	}
	return rest[0], 1
}

func between(low, high byte) func(byte) bool {
	return func(c byte) bool { return low <= c && c <= high }
}

func either(all ...func(byte) bool) func(byte) bool {
	return func(c byte) bool {
		for _, is := range all {
			if is(c) {
				return true
			}
		}
		return false
	}
}

// classes are those of the C locale.
var classes = func() map[string]func(byte) bool {
	digit, upper, lower := between('0', '9'), between('A', 'Z'), between('a', 'z')
	alnum, graph := either(digit, upper, lower), between('!', '~')
	return map[string]func(byte) bool{
		"digit": digit, "upper": upper, "lower": lower, "graph": graph, "alnum": alnum,
		"alpha": either(upper, lower), "xdigit": either(digit, between('a', 'f'), between('A', 'F')),
		"print": between(' ', '~'), "punct": func(c byte) bool { return graph(c) && !alnum(c) },
		"space": func(c byte) bool { return strings.IndexByte(blanks, c) >= 0 },
		"blank": func(c byte) bool { return c == ' ' || c == '\t' },
		"cntrl": func(c byte) bool { return c < ' ' || c == 0x7f },
	}
}()
