package render_test

import "testing"

// The cost of rendering alone, with templates parsed.
func BenchmarkRender(b *testing.B) {
	cases := testCases(b)
	for _, c := range []struct{ name, facts string }{{"1-address", "one"}, {"50-addresses", "fifty"}} {
		b.Run(c.name, func(b *testing.B) {
			templates, e := builtIn(b), cases[c.facts][0]
			mustRender(b, templates, e)
			b.ReportAllocs()
			for b.Loop() {
				mustRender(b, templates, e)
			}
		})
	}
}

// The cost in a process that renders once: find the templates, parse, render.
func BenchmarkParseAndRender(b *testing.B) {
	e := testCases(b)["one"][0]
	b.ReportAllocs()
	for b.Loop() {
		mustRender(b, builtIn(b), e)
	}
}
