package fault_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ec2net/fault"
)

func TestOf(t *testing.T) {
	gone, late := fault.As(fault.NoRetry, errors.New("gone")), fault.As(fault.Facts, errors.New("late"))
	broken := fault.As(fault.Template, errors.New("broken"))
	for _, c := range []struct {
		err  error
		want fault.Status
	}{
		{nil, fault.Done},
		{os.ErrPermission, fault.System},
		{fmt.Errorf("eth1: %w", gone), fault.NoRetry},
		{fault.As(fault.Usage, gone), fault.Usage}, // the outermost knows best
		{errors.Join(broken, late), fault.Facts},
		{errors.Join(late, fmt.Errorf("eth1: %w", gone)), fault.NoRetry},
		{errors.Join(broken, os.ErrPermission), fault.System},
		{errors.Join(errors.Join(broken)), fault.Template},
	} {
		if got := fault.Of(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if fault.As(fault.Usage, nil) != nil {
		t.Error("no error became one")
	}
}

func TestHint(t *testing.T) {
	inner := &fault.Error{Kind: fault.Facts, Err: errors.New("late"), Try: "wait"}
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("eth1: %w", inner), "wait"},
		{fault.As(fault.System, inner), "wait"},
		{&fault.Error{Kind: fault.Usage, Err: inner, Try: "read"}, "read"},
		{errors.New("plain"), ""},
	} {
		if got := fault.Hint(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

// Every error type of the product has an exit status: a forgotten one would mean "try
// again".
func TestErrors(t *testing.T) {
	types := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "lab" || (path != ".." && strings.HasPrefix(d.Name(), "."))) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		methods := map[string][]string{}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv == nil {
				continue
			}
			recv := f.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if name, ok := recv.(*ast.Ident); ok {
				methods[name.Name] = append(methods[name.Name], f.Name.Name)
			}
		}
		for name, has := range methods {
			if !slices.Contains(has, "Error") {
				continue
			}
			types++
			if !slices.Contains(has, "Status") {
				t.Errorf("%s: %s has no Status", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if types < 10 {
		t.Errorf("found %d error types", types)
	}
}
