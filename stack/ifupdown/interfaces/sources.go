package interfaces

import (
	"path"
	"strings"
)

// Source is a line that sources other files.
type Source struct {
	Line Line
	// Folders: the patterns match folders ("source-directory"). ifupdown reads those
	// of their files whose names have only letters, digits, _ and -.
	Folders bool
	// Patterns are the words of the line; none if ifupdown cannot expand them, and
	// skips the line.
	Patterns []Pattern
	// Unclear: the words depend on the environment of ifup.
	Unclear bool
}

// Pattern is a word of a source line.
type Pattern struct {
	Path string // absolute
	Glob bool   // Path is a pattern of glob(7)
}

// Sources returns the lines of a file that source others. The first word of a line
// is relative to the folder of the file, the others to the folder in which ifup was
// started: /, if the system started it.
func Sources(file string, text []byte) []Source {
	var found []Source
	for line := range Lines(text) {
		words := line.words()
		// ifupdown compares only this prefix.
		folders := strings.HasPrefix(words[0], "source-dir")
		if words[0] != "source" && !folders {
			continue
		}
		rest := strings.TrimLeft(strings.TrimPrefix(line.Text, words[0]), blanks)
		if !strings.HasPrefix(rest, "/") {
			rest = path.Dir(file) + "/" + rest
		}
		s := Source{Line: line, Folders: folders}
		s.Patterns, s.Unclear = expand(rest)
		for i, p := range s.Patterns {
			if !path.IsAbs(p.Path) {
				s.Patterns[i].Path = "/" + p.Path
			}
		}
		found = append(found, s)
	}
	return found
}

// PlainName reports whether a source-directory takes a file of this name.
func PlainName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '_' && r != '-'
	})
}
