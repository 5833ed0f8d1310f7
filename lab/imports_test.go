package lab

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What the folders of the product may not import, as ARCHITECTURE.md has it: a
// package, or with a slash all below. No folder of the product imports the lab.
func TestImports(t *testing.T) {
	for folder, mayNot := range map[string][]string{
		"cmd/ec2net": {"github.com/vishvananda/netlink", "github.com/aws/"},
		"facts":      {"ec2net/render", "ec2net/hooks", "text/template", "github.com/vishvananda/netlink"},
		"hooks":      {"ec2net/cmd/", "github.com/aws/", "os/exec", "text/template"},
		"kernel":     {"ec2net/hooks", "ec2net/render", "ec2net/disk", "ec2net/cmd/", "github.com/aws/", "os/exec", "text/template"},
		"render":     {"ec2net/hooks", "github.com/vishvananda/netlink", "os", "net", "net/http", "time", "math/rand", "math/rand/v2", "crypto/rand", "syscall", "os/exec", "ec2net/disk"},
		"disk":       {"ec2net/hooks", "ec2net/facts", "ec2net/render", "github.com/vishvananda/netlink"},
		"templates":  {"ec2net/", "os", "fmt"},
		"journal":    {"ec2net/"},
		"program":    {"ec2net/facts", "ec2net/hooks", "ec2net/render", "ec2net/plan"},
	} {
		mayNot = append(mayNot, "ec2net/lab", "ec2net/lab/")
		seen := 0
		for path, imports := range importsOf(t, filepath.Join("..", folder)) {
			seen++
			for _, name := range imports {
				if slices.ContainsFunc(mayNot, func(f string) bool { return name == f || (strings.HasSuffix(f, "/") && strings.HasPrefix(name, f)) }) {
					t.Errorf("%s imports %s", path, name)
				}
			}
		}
		if seen == 0 {
			t.Errorf("no files in %s", folder)
		}
	}
}

func importsOf(t *testing.T, dir string) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	imports := make(map[string][]string)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		imports[path] = nil
		for _, i := range file.Imports {
			imports[path] = append(imports[path], strings.Trim(i.Path.Value, `"`))
		}
	}
	return imports
}
