package lab

import (
	"slices"
	"testing"
)

func TestProgram(t *testing.T) {
	for name, test := range map[string]struct {
		f    func(TB)
		want string
	}{
		"ends":  {func(TB) {}, ""},
		"fails": {func(tb TB) { tb.Fatalf("no %s", "bridge") }, "no bridge"},
		"skips": {func(tb TB) { tb.Skipf("no root") }, "no root"},
	} {
		var order []string
		err := Program(t.Context(), func(tb TB) {
			tb.Cleanup(func() { order = append(order, "first") })
			tb.Cleanup(func() {
				if tb.Context().Err() == nil {
					t.Errorf("%s: the context outlives the program", name)
				}
				order = append(order, "last")
			})
			test.f(tb)
			order = append(order, "end")
		})
		got := ""
		if err != nil {
			got = err.Error()
		}
		want := []string{"end", "last", "first"}
		if test.want != "" {
			want = want[1:] // nothing after Fatalf
		}
		if got != test.want || !slices.Equal(order, want) {
			t.Errorf("%s: %q, %q, want %q, %q", name, got, order, test.want, want)
		}
	}
}
