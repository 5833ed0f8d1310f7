package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"
)

// A job is a command to time in the instance.
type job struct {
	Name   string
	Run    []string
	Env    []string
	Before string // a script that prepares Run, not timed
	After  string
}

// cost has a job's medians. CPU is that of the command and of all descendants that it
// has waited for.
type cost struct{ Wall, CPU time.Duration }

// rounds is how often each job is timed. There is one more, to warm up.
const rounds = 13

// inside times jobs: all of them in turn, again and again, so that the rest of the
// machine's load hits all alike.
func inside(stdin io.Reader, stdout io.Writer) error {
	var all []job
	if err := json.NewDecoder(stdin).Decode(&all); err != nil {
		return err
	}
	walls, cpus := make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	for round := range rounds + 1 {
		for n, j := range all {
			took, err := j.time()
			if err != nil {
				return fmt.Errorf("%s: %w", j.Name, err)
			}
			if round > 0 {
				walls[n], cpus[n] = append(walls[n], took.Wall), append(cpus[n], took.CPU)
			}
		}
	}
	costs := make([]cost, len(all))
	for n := range all {
		slices.Sort(walls[n])
		slices.Sort(cpus[n])
		costs[n] = cost{walls[n][rounds/2], cpus[n][rounds/2]}
	}
	return json.NewEncoder(stdout).Encode(costs)
}

func (j job) time() (c cost, err error) {
	if err := shell(j.Before); err != nil {
		return c, err
	}
	cmd := exec.Command(j.Run[0], j.Run[1:]...)
	cmd.Env = append(os.Environ(), j.Env...)
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return c, err
	}
	c.Wall = time.Since(start)
	c.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return c, shell(j.After)
}

func shell(script string) error {
	if script == "" {
		return nil
	}
	cmd := exec.Command("dash", "-ec", script)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w of\n%s", err, script)
	}
	return nil
}
