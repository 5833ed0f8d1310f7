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

// rooms are the folders of the product, from the ground up, and the others that each
// may import, as in ARCHITECTURE.md. No arrow leads up, so there is no circle.
var rooms = []struct {
	folder string
	may    string
}{
	{"fault", ""},
	{"templates", ""},
	{"journal", ""},
	{"lines", "fault"},
	{"facts", "fault"},
	{"disk", "fault"},
	{"program", "fault"},
	{"iprule", "facts lines"},
	{"iproute", ""},
	{"plan", "facts fault iproute iprule"},
	{"kernel", "facts fault iproute iprule plan"},
	{"kernel/memory", "facts iproute iprule kernel plan"},
	{"stack", "disk iproute iprule plan"},
	{"stack/ifupdown/interfaces", "lines"},
	{"stack/networkd/unit", "facts iproute lines"},
	{"stack/ifupdown", "disk fault iproute lines plan stack stack/ifupdown/interfaces stack/networkd/unit"},
	{"stack/networkd", "disk fault lines plan stack stack/networkd/unit"},
	{"render", "facts fault iprule lines stack/ifupdown/interfaces stack/networkd/unit templates"},
	{"hooks/mangle", "render"},
	{"hooks", "disk facts fault hooks/mangle iproute iprule kernel lines plan render stack stack/ifupdown stack/networkd"},
	{"cmd/ec2net", "disk facts fault hooks journal kernel lines program render stack/ifupdown stack/ifupdown/interfaces"},
}

// doors are packages from outside that only one folder, or those below it, may import.
var doors = map[string]string{
	"github.com/vishvananda/netlink": "kernel",
	"github.com/aws/":                "facts",
	"github.com/Masterminds/":        "render",
	"github.com/spf13/pflag":         "cmd/ec2net",
	"text/template":                  "render",
	"net/http":                       "facts",
	"log/syslog":                     "nowhere",
}

// pure folders read and write nothing: no file, clock, chance or network.
var pure = []string{"iproute", "iprule", "lines", "plan", "render", "stack/ifupdown/interfaces", "stack/networkd/unit"}

// impure has the packages that pure folders may not import.
var impure = []string{"os", "net", "net/http", "time", "math/rand", "math/rand/v2", "crypto/rand", "syscall", "os/exec",
	"golang.org/x/sys/unix"}

// A folder of the product imports only what ARCHITECTURE.md allows.
func TestImports(t *testing.T) {
	for i, room := range rooms {
		below := make([]string, i)
		for n, r := range rooms[:i] {
			below[n] = r.folder
		}
		may := strings.Fields(room.may)
		for _, other := range may {
			if !slices.Contains(below, other) {
				t.Errorf("%s may import %s, which is not below it", room.folder, other)
			}
		}
		seen := 0
		for path, imports := range importsOf(t, filepath.Join("..", room.folder)) {
			seen++
			for _, name := range imports {
				if why := forbidden(room.folder, may, name); why != "" {
					t.Errorf("%s imports %s: %s", path, name, why)
				}
			}
		}
		if seen == 0 {
			t.Errorf("no files in %s", room.folder)
		}
	}
}

// forbidden says why a folder may not import a package; empty if it may.
func forbidden(folder string, may []string, name string) string {
	if own, ok := strings.CutPrefix(name, "ec2net/"); ok {
		if slices.Contains(may, own) {
			return ""
		}
		return "no arrow leads there"
	}
	for prefix, door := range doors {
		if strings.HasPrefix(name, prefix) && folder != door && !strings.HasPrefix(folder, door+"/") {
			return "only " + door + " does"
		}
	}
	if slices.Contains(pure, folder) && slices.Contains(impure, name) {
		return folder + " is pure"
	}
	return ""
}

// Every folder of the product with Go in it is one of the rooms.
func TestRooms(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		folder, _ := filepath.Rel("..", path)
		if !d.IsDir() {
			return nil
		}
		if folder == "lab" || (folder != "." && strings.HasPrefix(folder, ".")) {
			return filepath.SkipDir
		}
		known := slices.ContainsFunc(rooms, func(r struct{ folder, may string }) bool { return r.folder == folder })
		if len(importsOf(t, path)) > 0 && !known {
			t.Errorf("%s is no room of ARCHITECTURE.md", folder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
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
