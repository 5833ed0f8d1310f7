package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
	"ec2net/lab/manpage"
	"ec2net/render"
)

// same compares a list of a manual page with the code's.
func same(t *testing.T, what string, page, code []string) {
	t.Helper()
	if !slices.Equal(page, code) {
		t.Errorf("%s: the manual page has\n%s\nthe code\n%s", what, strings.Join(page, "\n"), strings.Join(code, "\n"))
	}
}

// notTold lists what a template can reach in a View, but has no use for.
var notTold = []string{
	".ENI",     // the facts as a whole
	".Clone",   // a copy of them
	".Routed",  // true, or there would be nothing to render
	".HasIPv4", // the same
	".Number",  // .Table, .Metric, .Priority and .Mark say what it is for
}

// ec2net-templates(5) has every template, block and field, and no other.
func TestTemplatesManual(t *testing.T) {
	page := manpage.Read(t, "../../man/ec2net-templates.5")
	tags := func(section, sub string) []string {
		tags := manpage.Find(t, page, section, sub).Tags()
		slices.Sort(tags)
		return tags
	}
	var files []string
	templates, err := render.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range templates.List() {
		files = append(files, row.Name)
	}
	same(t, "files", manpage.Find(t, page, "FILES", "").Tags(), append(files, render.BlocksFile))
	same(t, "blocks", tags("BLOCKS", ""), slices.Sorted(slices.Values(render.DefaultBlocks())))
	same(t, "fields", tags("FIELDS", ""), fields(reflect.TypeFor[render.View]()))
	same(t, "fields of docker", tags("FIELDS", "docker.iptables.tmpl"), fields(reflect.TypeFor[render.DockerView]()))
}

// fields returns the fields of a type that a template sees, with their names in JSON.
func fields(of reflect.Type) []string {
	var found []string
	for _, f := range reflect.VisibleFields(of) {
		field := "." + f.Name
		if slices.Contains(notTold, field) {
			continue
		}
		if json, _, _ := strings.Cut(f.Tag.Get("json"), ","); json == "-" {
			field = inJSON(field)
		} else if json != "" {
			field += " (" + json + ")"
			if strings.Contains(factsFormat, "\n"+json+" * ") {
				field += " *"
			} else if !strings.Contains(factsFormat, "\n"+json+"  ") {
				field += " (not in help facts-format)"
			}
		}
		found = append(found, field)
	}
	for i := range of.NumMethod() {
		m := of.Method(i)
		if slices.Contains(notTold, "."+m.Name) {
			continue
		}
		found = append(found, inJSON(strings.TrimSpace("."+m.Name+" "+strings.Repeat("KIND ", m.Type.NumIn()-1))))
	}
	slices.Sort(found)
	return found
}

// inJSON adds the name in JSON to a field that follows from others, if it has one:
// .MarkMask (mark_mask).
func inJSON(field string) string {
	name := strings.ToLower(regexp.MustCompile("([a-z])([A-Z])").ReplaceAllString(field[1:], "${1}_$2"))
	if strings.Contains(factsFormat, "\n"+name+"  ") {
		return field + " (" + name + ")"
	}
	return field
}

// The examples of ec2net-templates(5) are blocks.tmpl files that work.
func TestTemplatesManualExamples(t *testing.T) {
	examples := manpage.Find(t, manpage.Read(t, "../../man/ec2net-templates.5"), "EXAMPLES", "").Examples()
	if len(examples) != 3 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, text := range examples {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "blocks.tmpl"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var out, problems strings.Builder
		if s := Run([]string{"ec2net", "templates", "check", "--settings=", "--templates", dir}, nil, &out, &problems, nil); s != 0 {
			t.Errorf("status %d: %s\n%s", s, problems.String(), text)
		}
	}
}

// Debian's man and mandoc do not complain about the pages.
func TestManualFormat(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: man and mandoc are in a Debian tree")
	}
	t.Parallel()
	files := make(map[string]string)
	for _, name := range []string{"ec2net.8", "ec2net-templates.5"} {
		text, err := os.ReadFile("../../man/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files["/man/"+name] = string(text)
	}
	r := lab.Debian(t, "bookworm-shells").Run(t, lab.Cmd{Files: files, Env: []string{"LC_ALL=C.UTF-8", "MANWIDTH=80"}, Args: []string{"sh", "-euc", `
for page in /man/*; do
	man --warnings -E UTF-8 -l -Tutf8 -Z "$page" >/dev/null
	man -l "$page" | grep -q '^EXAMPLES'
	mandoc -T lint -W style "$page" >&2
done`}})
	if r.Status != 0 || r.Stderr != "" {
		t.Errorf("status %d: %s", r.Status, r.Stderr)
	}
}
