package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkProcess times the whole process of "ec2net render --facts" and, in turn,
// that of a Go program that only prints a line. Compare their ratio: both times
// depend on the machine.
func BenchmarkProcess(b *testing.B) {
	dir := b.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module nothing\n",
		"main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"nothing\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := goBuild(dir+"/nothing", dir); err != nil {
		b.Fatal(err)
	}
	facts, err := filepath.Abs("../../facts/examples/eth1.json")
	if err != nil {
		b.Fatal(err)
	}
	timed := func(args ...string) time.Duration {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout = io.Discard
		start := time.Now()
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	var renders, nothings []time.Duration
	for b.Loop() {
		renders = append(renders, timed(os.Getenv(toolDir)+"/ec2net", "render", "eth1", "--facts", facts, "--settings=", "--templates="))
		nothings = append(nothings, timed(dir+"/nothing"))
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(renders), "render-us")
	b.ReportMetric(median(nothings), "nothing-us")
	b.ReportMetric(median(renders)/median(nothings), "times")
}
