package disk

import (
	"path"
	"slices"
	"sync"
)

// sole caches the files and folders of a tree into which nobody else writes.
type sole struct {
	mu    sync.Mutex
	files map[string][]byte
	lists map[string][]string
}

// Sole promises that only this Tree changes anything below its folder: then it reads no
// unchanged file or folder twice. It is for tests, which look thousands of times.
func (t *Tree) Sole() { t.sole = &sole{files: map[string][]byte{}, lists: map[string][]string{}} }

// file returns a file from the cache, or reads it.
func (s *sole) file(name string, read func() ([]byte, error)) ([]byte, error) {
	if s == nil {
		return read()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, known := s.files[name]
	if !known {
		var err error
		if text, err = read(); err != nil {
			return nil, err
		}
		s.files[name] = text
	}
	return slices.Clone(text), nil
}

// list returns a folder from the cache, or reads it.
func (s *sole) list(name string, read func() ([]string, error)) ([]string, error) {
	if s == nil {
		return read()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, known := s.lists[name]
	if !known {
		var err error
		if names, err = read(); err != nil {
			return nil, err
		}
		s.lists[name] = names
	}
	return slices.Clone(names), nil
}

// changed drops a file that has changed, and the folders above it, from the cache.
func (s *sole) changed(name string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, name)
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		delete(s.lists, dir)
		if dir == "." {
			return
		}
	}
}

// opened is changed for a file that may have existed before.
func (s *sole) opened(name string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	known := slices.Contains(s.lists[path.Dir(name)], path.Base(name))
	s.mu.Unlock()
	if !known {
		s.changed(name)
	}
}
