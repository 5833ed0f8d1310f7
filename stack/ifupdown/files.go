package ifupdown

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ec2net/disk"
	"ec2net/fault"
	"ec2net/stack/ifupdown/interfaces"
)

// file is a file that ifupdown reads.
type file struct {
	path string
	text []byte
}

// reading is what ifupdown reads: /etc/network/interfaces and the files it sources.
type reading struct {
	files []file
	// patterns are of sourced files, which need not exist yet.
	patterns []interfaces.Pattern
	// unclear is the first line that sources unknown files.
	unclear *UnclearError
}

// UnclearError says that a line sources files that depend on the environment of ifup.
type UnclearError struct {
	Path string
	Line interfaces.Line
}

func (e *UnclearError) Error() string {
	return fmt.Sprintf("cannot tell which files ifupdown reads by line %d of %s, %q", e.Line.Number, e.Path, e.Line.Text)
}

// Status is that of what only a person can mend.
func (*UnclearError) Status() fault.Status { return fault.Usage }

// Hint says what to write instead.
func (*UnclearError) Hint() string { return "write the path out, without a variable and without ~" }

// maxFiles bounds the files to read: they may source each other under ever new
// names.
const maxFiles = 1000

// read reads what ifupdown reads. Like ifupdown it skips what does not exist or is no
// file; any other failure to read is an error, since a stanza may be behind it.
func (s *Stack) read() (reading, error) {
	var r reading
	all := []string{interfaces.Main}
	for i := 0; i < len(all); i++ { // all grows
		text, err := s.Tree.Read(all[i])
		if err != nil && (i == 0 || !passedOver(err)) {
			return r, err
		}
		if err != nil || text == nil {
			continue
		}
		r.files = append(r.files, file{all[i], text})
		more, err := s.sourced(&r, all[i], text)
		if err != nil {
			return r, err
		}
		for _, found := range more {
			if !slices.Contains(all, found) {
				all = append(all, found)
			}
		}
		if len(all) > maxFiles {
			return r, fmt.Errorf("ifupdown reads more than %d files by %s", maxFiles, interfaces.Main)
		}
	}
	return r, nil
}

// sourced returns the existing files that a file sources.
func (s *Stack) sourced(r *reading, at string, text []byte) ([]string, error) {
	var all []string
	for _, source := range interfaces.Sources(at, text) {
		if source.Unclear && r.unclear == nil {
			r.unclear = &UnclearError{at, source.Line}
		}
		for _, p := range source.Patterns {
			found, err := s.glob(p)
			if err != nil {
				return nil, err
			}
			if !source.Folders {
				r.patterns = append(r.patterns, p)
				all = append(all, found...)
				continue
			}
			for _, folder := range found {
				names, err := s.list(folder)
				if err != nil {
					return nil, err
				}
				for _, name := range names {
					if interfaces.PlainName(name) {
						all = append(all, path.Join(folder, name))
					}
				}
			}
		}
	}
	return all, nil
}

// passedOver reports whether ifupdown skips a file or folder for a lasting reason:
// something else is in its place, or a link leads nowhere.
func passedOver(err error) bool {
	return errors.Is(err, disk.ErrNotRegular) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// list names the files in a folder; none if it is not a folder.
func (s *Stack) list(folder string) ([]string, error) {
	names, err := s.Tree.List(folder)
	if err != nil && passedOver(err) {
		return nil, nil
	}
	return names, err
}

// glob returns the paths that a pattern matches. A path without a wildcard need not
// exist.
func (s *Stack) glob(p interfaces.Pattern) ([]string, error) {
	found := []string{"/"}
	for part := range strings.SplitSeq(strings.TrimPrefix(p.Path, "/"), "/") {
		var below []string
		for _, at := range found {
			more, err := s.step(at, part, p.Glob)
			if err != nil {
				return nil, err
			}
			below = append(below, more...)
		}
		if found = below; len(found) > maxFiles {
			return nil, fmt.Errorf("%s matches more than %d files", p.Path, maxFiles)
		}
	}
	return found, nil
}

// step goes from a folder to what a part of a path or a pattern matches in it.
func (s *Stack) step(at, part string, glob bool) ([]string, error) {
	switch {
	case part == "" || part == "." || part == "..":
		// Nothing is behind the slash of a file. The folder of the cfg files is made
		// with the first of them.
		if folder, err := s.Tree.IsFolder(at); err != nil || (!folder && at != interfaces.Folder) {
			return nil, err
		}
		return []string{path.Join(at, part)}, nil
	case !glob || !interfaces.HasMeta(part):
		return []string{path.Join(at, part)}, nil
	}
	names, err := s.list(at)
	var found []string
	for _, name := range names {
		if interfaces.Match(part, name) {
			found = append(found, path.Join(at, name))
		}
	}
	return found, err
}

// leads reports whether a pattern matches the cfg file of an interface, which need
// not exist.
func (s *Stack) leads(p interfaces.Pattern, name string) (bool, error) {
	folder, last := path.Split(p.Path)
	if !matches(p, last, name+".cfg") {
		return false, nil
	}
	if p.Glob && interfaces.MatchPath(folder, interfaces.Folder) {
		return true, nil // the folder need not exist yet
	}
	folders, err := s.glob(interfaces.Pattern{Path: folder, Glob: p.Glob})
	if err != nil {
		return false, err
	}
	for _, f := range folders {
		if same, err := s.Tree.Same(f, interfaces.Folder); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// matches reports whether the last part of a pattern matches a name.
func matches(p interfaces.Pattern, part, name string) bool {
	return part == name || p.Glob && interfaces.Match(part, name)
}
