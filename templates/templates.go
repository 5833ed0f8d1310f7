// Package templates has the default templates: those of each network stack in a folder of
// its own, and in common those that are the same for all. Package render reads and
// executes them.
package templates

import (
	"embed"
	"errors"
	"io/fs"
)

//go:embed */*.tmpl
var files embed.FS

// Read returns the text of a template, by the name of its file: ethN.cfg.tmpl. The error
// is fs.ErrNotExist if there is none.
func Read(name string) ([]byte, error) {
	folders, err := files.ReadDir(".")
	for _, folder := range folders {
		if text, err := files.ReadFile(folder.Name() + "/" + name); err == nil {
			return text, nil
		}
	}
	return nil, errors.Join(err, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist})
}
