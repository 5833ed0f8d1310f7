package endtoend

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// oneStack has the tests that do not run on both network stacks, each with the reason.
var oneStack = map[string]string{
	// What dhclient or dhcpcd does with its hooks.
	"TestHook":              "dhclient's exit hook",
	"TestHookOfContainer":   "the same, in another network namespace",
	"TestRunFull":           "the hook's note of a lease; /run full is a row of TestFaults",
	"TestDhcpcd":            "dhcpcd's hook",
	"TestPrimaryStaysFirst": "dhcpcd's metrics",
	"TestPrimaryComesBack":  "dhcpcd's metrics",
	"TestPrimaryKeepsDNS":   "the enter hook; networkd is told UseDNS=no",
	"TestStaticDNS":         "the enter hook",
	"TestWantedDNS":         "the enter hook",
	"TestOthersDNS":         "the enter hook",
	"TestOtherHooks":        "the enter hook",
	// What ifupdown does with a stanza.
	"TestHalfUp":         "what ifup makes before it is killed; networkd brings up all or nothing",
	"TestHelper":         "cloud-ifupdown-helper",
	"TestPortOfBridge":   "bridge_ports of a stanza; TestBecomesPortOfBridge is for both",
	"TestSequence":       "what stanzas and the hook make, at random; TestHour has images too",
	"TestWatchIPv6":      "IPv6 is on with networkd, without addresses: TestPrimaryIPv6",
	"TestCost":           "programs that ifup and dhclient start; TestImageCost",
	"TestAttackers":      "programs in ifup's environment, dhclient's variables; what reads files is the same",
	"TestExamples":       "overrides of the stanza",
	"TestMigration":      "older tools, which know ifupdown alone",
	"TestMigrationFiles": "the same",
	// Watch costs what the kernel tells it, whoever configures.
	"TestWatchCost": "the stack plays no part",
	// The package has its own tests on images.
	"TestPackage":             "ifupdown: TestPackageImage",
	"TestPackageBeside":       "amazon-ec2-net-utils, on images only",
	"TestPackageBuildFails":   "no machine",
	"TestPackageFiles":        "no machine",
	"TestPackageLife":         "ifupdown: TestPackageImage",
	"TestRemovedWhileWaiting": "ifupdown: TestPackageImage",
	"TestInstalled":           "no machine",
	// Networkd and images alone.
	"TestOff":             "without ec2net: TestImageAlone",
	"TestSystemdNetworkd": "networkd beside ifupdown",
	// Machines of both stacks.
	"TestHour":      "its machines are of both stacks",
	"TestHourJudge": "no machine",
}

// Every test runs on both stacks, is about images, or is in oneStack.
func TestOnStacks(t *testing.T) {
	t.Parallel()
	uses := usesOfPackage(t)
	for name := range uses {
		if !strings.HasPrefix(name, "Test") || name == "TestMain" || name == "TestOnStacks" {
			continue
		}
		reason := oneStack[name]
		switch both := reaches(uses, name, make(map[string]bool)); {
		case both && reason != "":
			t.Errorf("%s is in oneStack, and boots an image", name)
		case !both && reason == "":
			t.Errorf("%s runs on ifupdown alone: use onStacks, or say in oneStack why", name)
		}
	}
	for name := range oneStack {
		if uses[name] == nil {
			t.Errorf("oneStack has %s, which there is not", name)
		}
	}
}

// usesOfPackage returns for each function and variable of this package the names in it.
func usesOfPackage(t *testing.T) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	uses := make(map[string][]string)
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				uses[d.Name.Name] = append(uses[d.Name.Name], namesIn(d)...)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						for _, name := range v.Names {
							uses[name.Name] = append(uses[name.Name], namesIn(v)...)
						}
					}
				}
			}
		}
	}
	return uses
}

// namesIn returns the names in a node, but not those behind a dot, such as a method's. Image,
// as in lab.Setup{Image: true}, counts as imageStack.
func namesIn(n ast.Node) (names []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			names = append(names, namesIn(n.X)...)
			return false
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Image" {
				names = append(names, "imageStack")
			}
		case *ast.Ident:
			names = append(names, n.Name)
		}
		return true
	})
	return names
}

// reaches reports whether something uses imageStack, itself or by something else.
func reaches(uses map[string][]string, name string, seen map[string]bool) bool {
	if seen[name] {
		return false
	}
	seen[name] = true
	for _, used := range uses[name] {
		if used == "imageStack" || reaches(uses, used, seen) {
			return true
		}
	}
	return false
}
