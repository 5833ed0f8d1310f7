package report

import "testing"

func TestReplace(t *testing.T) {
	const doc = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
	for _, c := range []struct{ name, want string }{
		{"x", "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n"},
		{"y", ""},
	} {
		got, err := replace([]byte(doc), c.name, "new\n")
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}
