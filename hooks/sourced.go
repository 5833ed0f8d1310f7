package hooks

import (
	"fmt"
	"path"
	"strings"
)

const interfacesFile = "/etc/network/interfaces"

// NotSourcedError says that ifupdown does not read a stanza.
type NotSourcedError struct{ Path string }

func (e *NotSourcedError) Error() string {
	return fmt.Sprintf("%s does not read %s", interfacesFile, e.Path)
}

// Hint says what to write where.
func (e *NotSourcedError) Hint() string {
	return fmt.Sprintf("add to %s the line: source %s/*.cfg", interfacesFile, path.Dir(e.Path))
}

// checkSourced makes sure that interfaces(5) reads the cfg file of an
// interface. (source-directory takes no file with a dot in its name.)
func (h *Host) checkSourced(name string) error {
	cfg, err := cfgPath(name)
	if err != nil {
		return err
	}
	text, err := h.Tree.Read(interfacesFile)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "source" {
			continue
		}
		for _, pattern := range words[1:] {
			if !path.IsAbs(pattern) {
				pattern = path.Join(path.Dir(interfacesFile), pattern)
			}
			if ok, _ := path.Match(pattern, cfg); ok {
				return nil
			}
		}
	}
	return &NotSourcedError{cfg}
}
