package render

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"text/template"

	"ec2net/lab/manpage"
)

// ec2net-templates(5) lists exactly the functions that a template can call.
func TestManualFunctions(t *testing.T) {
	page := manpage.Read(t, "../man/ec2net-templates.5")
	functions := functionMap()
	var found []string
	for _, tag := range manpage.Find(t, page, "FUNCTIONS", "Of ec2net").Tags() {
		found = append(found, strings.Fields(tag)[0])
	}
	found = append(found, manpage.Find(t, page, "FUNCTIONS", "Of sprig").Bold()...)
	for _, name := range manpage.Find(t, page, "FUNCTIONS", "Of text/template").Bold() {
		if _, err := template.New("").Parse("{{" + name + "}}"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// The page lists a function once, even if sprig or ec2net replaces text/template's.
		if functions[name] != nil {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	if want := slices.Sorted(maps.Keys(functions)); !slices.Equal(found, want) {
		for _, name := range want {
			if !slices.Contains(found, name) {
				t.Errorf("not in the page: %s", name)
			}
		}
		t.Errorf("the page has %s\nwant %s", found, want)
	}
}
