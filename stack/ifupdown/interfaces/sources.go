package interfaces

import (
	"path"
	"strings"
)

// Source is a line that sources other files.
type Source struct {
	Line Line
	// Folders says that the patterns are of folders, of which each file is read
	// whose name has letters, digits, _ and - alone: "source-directory".
	Folders bool
	// Patterns are the words of the line. There are none if ifupdown passes over
	// the line, since it cannot expand the words.
	Patterns []Pattern
	// Unclear says that the words cannot be told: they hang on the environment
	// of ifup.
	Unclear bool
}

// Pattern is a word of a source line.
type Pattern struct {
	Path string // absolute
	Glob bool   // it is a pattern, as in glob(7); else it is the path itself
}

// Sources gives the lines of a file that source others. Of each line the first word
// is relative to the folder of the file. The others are relative to the folder in
// which ifup was started, which is / for whatever the system starts.
func Sources(file string, text []byte) []Source {
	var found []Source
	for line := range Lines(text) {
		words := line.words()
		// Whatever begins with source-dir is a source-directory.
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
