// Command fuzz runs every fuzz target of the module for a while, one after the
// other, and prints the number of runs without a finding.
//
//	go run ./lab/cmd/fuzz [-time 30s] [-update]
//
// With -update the numbers go into docs/reliability.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ec2net/lab/report"
)

const doc = "docs/reliability.md"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("fuzz", flag.ExitOnError)
	long := flags.Duration("time", 30*time.Second, "for each target")
	update := flags.Bool("update", false, "write the numbers into "+doc)
	if err := flags.Parse(args); err != nil {
		return err
	}
	all, err := targets(".")
	if err != nil {
		return err
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| target | executions in %v |\n| --- | --- |\n", *long)
	for _, t := range all {
		n, err := t.fuzz(*long, stdout)
		if err != nil {
			return fmt.Errorf("%v: %w", t, err)
		}
		fmt.Fprintf(&table, "| %v | %d |\n", t, n)
	}
	if *update {
		return report.Write(doc, "fuzz", table.String())
	}
	return nil
}

// target is a function that go test -fuzz runs.
type target struct{ folder, name string }

func (t target) String() string { return t.folder + " " + t.name }

var declared = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// targets finds all targets below a folder.
func targets(root string) (all []target, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		for _, found := range declared.FindAllSubmatch(text, -1) {
			all = append(all, target{folder, string(found[1])})
		}
		return err
	})
	return all, err
}

var executions = regexp.MustCompile(`execs: (\d+)`)

// fuzz runs a target, and returns how often.
func (t target) fuzz(long time.Duration, stdout io.Writer) (int, error) {
	var said strings.Builder
	// Without a bound on minimizing, no input is tried for most of a minute.
	cmd := exec.Command("go", "test", "-run=^$", "-fuzz=^"+t.name+"$", "-fuzztime="+long.String(),
		"-fuzzminimizetime=20x", "./"+t.folder)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(stdout, &said), os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	counts := executions.FindAllStringSubmatch(said.String(), -1)
	if len(counts) == 0 {
		return 0, errors.New("go test does not say how often it ran")
	}
	return strconv.Atoi(counts[len(counts)-1][1])
}
