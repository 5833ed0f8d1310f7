package unshared

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OwnRoot gives the tests, where they are root of a user namespace, a root folder that
// is theirs, with everything in it that the machine's has. To such a root the machine's
// own root is somebody else, so that it may trust no file. Temporary files go right
// below the root folder, since /tmp is not theirs either. The folder is an empty one, in
// which the root folder is put together.
func OwnRoot(folder string) error {
	if os.Geteuid() != 0 || Root() {
		return nil
	}
	at, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := fillRoot(folder); err != nil {
		return fmt.Errorf("cannot make a root folder: %w", err)
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root folder ends up on top of the new
	// one. Below a folder of chroot(2) nobody could make another user namespace.
	return errors.Join(unix.Chdir(folder), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH),
		unix.Chdir(at), os.Setenv("TMPDIR", temporary))
}

// temporary is where temporary files go.
const temporary = "/unshared"

func fillRoot(folder string) error {
	// What is mounted from here on, nobody else sees, and what others mount is not seen.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := take(e, folder); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(folder, temporary), 0o755)
}

// take puts what is in the machine's root folder into another one.
func take(e os.DirEntry, folder string) error {
	from, to := filepath.Join("/", e.Name()), filepath.Join(folder, e.Name())
	switch {
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	case e.Type()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	return nil // such as a file that marks a container
}
