package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// maxTemplate bounds the text of a template, in bytes.
const maxTemplate = 256 << 10

// Overrides is a folder of an administrator's templates. It need not exist.
type Overrides struct{ Dir string }

// Names lists the files of the folder, sorted.
func (o Overrides) Names() ([]string, error) {
	entries, err := os.ReadDir(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Read reads a template that only root or the caller can have written.
func (o Overrides) Read(name string) ([]byte, error) {
	return ReadTrusted(o.Path(name), maxTemplate)
}

// Path is the path of the file with this name.
func (o Overrides) Path(name string) string { return filepath.Join(o.Dir, name) }
