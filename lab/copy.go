package lab

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// copyTree copies what is in a folder of this machine over the root of the
// other: folders, files and symbolic links, with their modes.
func (m *machine) copyTree(folder string) error {
	root, err := os.OpenRoot(folder) // reached from inside by its descriptor
	if err != nil {
		return err
	}
	defer root.Close()
	err = m.inside(func() error {
		return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || name == "." {
				return err
			}
			return copyEntry(root, name, d)
		})
	})
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", folder, err)
	}
	return nil
}

func copyEntry(root *os.Root, name string, d fs.DirEntry) error {
	target := filepath.Join("/", name)
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		// A link to a folder, as /lib is, stays one.
		return os.MkdirAll(target, info.Mode().Perm())
	case fs.ModeSymlink:
		link, err := root.Readlink(name)
		if err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
			return err
		}
		return os.Symlink(link, target)
	case 0:
		text, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		// A new file: the old one may be running.
		if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := os.WriteFile(target, text, info.Mode().Perm()); err != nil {
			return err
		}
		return os.Chmod(target, info.Mode().Perm())
	}
	return fmt.Errorf("%s is %v", name, info.Mode().Type())
}
