package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// names lists a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestBuildOnce(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	dir := filepath.Join(cache, "tree")
	var builds, callers atomic.Int32
	build := func(partial string) error {
		builds.Add(1)
		if err := os.Mkdir(partial, 0o755); err != nil {
			return err
		}
		for callers.Load() < 8 { // until the others are at the lock, or nearly so
			runtime.Gosched()
		}
		return os.WriteFile(filepath.Join(partial, "whole"), nil, 0o644)
	}

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			callers.Add(1)
			if err := buildOnce(t.Context(), dir, build); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "whole")); err != nil {
				t.Errorf("returned before it was built: %v", err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if got, want := names(t, cache), []string{"lock", "tree"}; !slices.Equal(got, want) {
		t.Errorf("the cache has %q, want %q", got, want)
	}
}

// TestBuildOnceInterrupted begins with the remains of a killed build: its folder, and
// a lock file that nobody holds.
func TestBuildOnceInterrupted(t *testing.T) {
	cache := t.TempDir()
	for _, left := range []string{"tree.partial/etc", "older.partial/etc"} {
		if err := os.MkdirAll(filepath.Join(cache, left), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := buildOnce(t.Context(), filepath.Join(cache, "tree"), func(partial string) error {
		return os.Mkdir(partial, 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Join(cache, "tree")); len(got) != 0 {
		t.Errorf("the tree has the interrupted build's %q", got)
	}
	if got, want := names(t, cache), []string{"lock", "tree"}; !slices.Equal(got, want) {
		t.Errorf("the cache has %q, want %q", got, want)
	}
}

func TestBuildOnceFails(t *testing.T) {
	cache := t.TempDir()
	broken := errors.New("no network")
	err := buildOnce(t.Context(), filepath.Join(cache, "tree"), func(partial string) error {
		return errors.Join(broken, os.Mkdir(partial, 0o755))
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if got, want := names(t, cache), []string{"lock"}; !slices.Equal(got, want) {
		t.Errorf("the cache has %q, want %q", got, want)
	}
}

func TestLockFileGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
