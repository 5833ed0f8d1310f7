package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// partialSuffix marks what is being built. Nothing looks for a tree under
// such a name, so an interrupted build never counts as one.
const partialSuffix = ".partial"

// buildOnce makes sure that dir exists. If it does not, build makes it under another
// name, and buildOnce renames it when it is whole. Processes that want the same
// folder, or another one beside it, wait for each other.
func buildOnce(ctx context.Context, dir string, build func(partial string) error) error {
	if exists(dir) {
		return nil // the common case, without a lock
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	lock, err := lockFile(ctx, filepath.Join(parent, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if exists(dir) {
		return nil // built by the one we waited for
	}

	if err := removePartial(parent); err != nil {
		return err
	}
	partial := dir + partialSuffix
	if err := build(partial); err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	if err := syncFS(partial); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// removePartial removes the remains of interrupted builds, also under names that
// nobody asks for any more. The caller holds the lock.
func removePartial(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), partialSuffix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(parent, e.Name())); err != nil {
			return fmt.Errorf("cannot remove what an interrupted build left: %w", err)
		}
	}
	return nil
}

// lockFile waits for an exclusive lock, which ends when the file is closed or
// its process dies. It polls, because a flock(2) that blocks cannot be
// cancelled.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// syncFS writes a new folder's file system to disk. Without it a crash soon
// after the rename could leave a tree of empty files under the final name.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}
