// Command tree builds the lab's Debian trees, so that no test has to, and prints
// their paths.
//
//	go run ./lab/cmd/tree [RELEASE ...]
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"ec2net/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, releases []string, stdout, stderr io.Writer) int {
	if len(releases) == 0 {
		releases = []string{"bookworm", "trixie"}
	}
	for _, release := range releases {
		t, err := lab.Debootstrap(ctx, release, stderr)
		if err != nil {
			fmt.Fprintf(stderr, "tree: %v\n", err)
			return 1
		}
		fmt.Fprintln(stdout, t.Dir)
	}
	return 0
}
