package hooks

import (
	"fmt"
	"path"
	"strings"

	"ec2net/fault"
)

const interfacesFile = "/etc/network/interfaces"

// NotSourcedError says that ifupdown does not read a stanza.
type NotSourcedError struct{ Path string }

func (e *NotSourcedError) Error() string {
	return fmt.Sprintf("%s does not read %s", interfacesFile, e.Path)
}

// Status is that of what does not mend itself.
func (*NotSourcedError) Status() fault.Status { return fault.Usage }

// Hint says what to write where.
func (e *NotSourcedError) Hint() string {
	return fmt.Sprintf("add to %s the line: source %s/*.cfg", interfacesFile, path.Dir(e.Path))
}

// checkSourced makes sure that ifupdown reads the cfg file of an interface. A
// source-directory takes no file with a dot in its name, and so none of ec2net's.
func (h *Host) checkSourced(name string) error {
	cfg, err := cfgPath(name)
	if err != nil {
		return err
	}
	files, err := h.interfacesFiles()
	if err != nil {
		return err
	}
	for _, f := range files {
		for _, pattern := range sources(f.text, "source") {
			if ok, _ := path.Match(pattern, cfg); ok {
				return nil
			}
		}
	}
	return &NotSourcedError{cfg}
}

// stanzas is a file that ifupdown reads.
type stanzas struct {
	path string
	text []byte
}

// maxInterfaces bounds how many files are looked at, which may be in a ring.
const maxInterfaces = 256

// interfacesFiles are the files that ifupdown reads, as far as they are there:
// /etc/network/interfaces, and what it sources (interfaces(5)).
func (h *Host) interfacesFiles() ([]stanzas, error) {
	var files []stanzas
	seen := make(map[string]bool)
	for next := []string{interfacesFile}; len(next) > 0 && len(files) < maxInterfaces; next = next[1:] {
		if seen[next[0]] {
			continue
		}
		seen[next[0]] = true
		text, err := h.Tree.Read(next[0])
		if err != nil && next[0] == interfacesFile {
			return nil, err
		} else if err != nil || text == nil {
			continue // ifupdown does not stop at it either
		}
		files = append(files, stanzas{next[0], text})
		for _, pattern := range sources(text, "source") {
			found, err := h.matching(pattern, true)
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
		for _, dir := range sources(text, "source-directory") {
			found, err := h.matching(path.Join(dir, "*"), false)
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
	}
	return files, nil
}

// matching are the files of a pattern, of which the folder is no pattern.
// Without odd it takes only names of letters, digits, _ and -.
func (h *Host) matching(pattern string, odd bool) ([]string, error) {
	names, err := h.Tree.List(path.Dir(pattern))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		file := path.Join(path.Dir(pattern), name)
		if ok, _ := path.Match(pattern, file); ok && !strings.HasPrefix(name, ".") && (odd || plainName(name)) {
			found = append(found, file)
		}
	}
	return found, nil
}

func plainName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '_' && r != '-'
	})
}

// sources are the patterns behind a word: what a file sources.
func sources(text []byte, word string) []string {
	var patterns []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != word {
			continue
		}
		for _, pattern := range words[1:] {
			if !path.IsAbs(pattern) {
				pattern = path.Join(path.Dir(interfacesFile), pattern)
			}
			patterns = append(patterns, pattern)
		}
	}
	return patterns
}
