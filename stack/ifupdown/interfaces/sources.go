package interfaces

import (
	"path"
	"strings"
)

// Source is a line by which a file has others read.
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

// Sources gives the lines by which a file has others read. The file's own path is
// where its patterns begin: in the folder of the file. That holds for the first
// word of a line alone, as ifupdown has it; the others begin where ifup was
// started, which is / for all that the system starts.
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
