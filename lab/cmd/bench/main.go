// Command bench prints the cost of ec2net in the lab: medians, and ratios to programs
// that do the same or less, in the same run.
//
//	make bench
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"ec2net/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var err error
	if len(args) == 1 && args[0] == "inside" {
		err = inside(stdin, stdout)
	} else {
		err = lab.Program(ctx, func(tb lab.TB) { printTables(stdout, measure(tb)) })
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

//go:embed by-hand.sh
var byHand string

// files are more files of the instance: a rule by which the lab's ENIs count as ENIs,
// the shell script to compare with, and a stanza without ec2net.
var files = map[string]string{
	"/etc/udev/rules.d/52-lab.rules":     `SUBSYSTEM=="net", KERNEL=="eth*", ENV{EC2NET_ENI}="1"` + "\n",
	"/etc/network/interfaces.d/bare.cfg": "iface eth3 inet dhcp\n    metric 1003\n",
	"/usr/local/bin/by-hand":             byHand,
}

// install fills a folder with ec2net and the programs to time.
func install(tb lab.TB) string {
	dir, err := os.MkdirTemp("", "ec2net-bench-")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin := filepath.Join(dir, "usr/local/bin") + "/"
	if err := os.MkdirAll(bin, 0o755); err != nil {
		tb.Fatalf("%v", err)
	}
	for _, args := range [][]string{
		{"make", "install", "DESTDIR=" + dir},
		{"go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./lab/cmd/bench/..."},
	} {
		cmd := exec.CommandContext(tb.Context(), args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	return dir
}

// measure makes an instance with eth1 (one address), eth2 (fifty) and eth3,
// which ec2net does not know, and times the jobs in it.
func measure(tb lab.TB) map[string]cost {
	v := lab.NewVPC(tb, lab.Plan{})
	fifty := make([]string, 50)
	for n := range fifty {
		fifty[n] = fmt.Sprintf("10.0.1.%d", 50+n)
	}
	eth1, eth2, eth3 := v.AddENI(tb, "10.0.1.20"), v.AddENI(tb, fifty...), v.AddENI(tb, "10.0.1.30")
	i := v.Boot(tb, lab.Setup{Files: files})
	eth3.Attach(tb, "eth3")
	i.Sh(tb, "udevadm settle")
	i.Install(tb, install(tb))
	i.Sh(tb, "udevadm control --reload")
	for name, eni := range map[string]*lab.ENI{"eth1": eth1, "eth2": eth2} {
		eni.Attach(tb, name)
		i.WaitSh(tb, "test -e /run/ec2net/"+name+".up && flock -n /run/ec2net/"+name+".lock true")
	}
	// hotplug finds this ifup first.
	i.Sh(tb, "ln -s /bin/true /usr/local/sbin/ifup; ec2net facts eth1 >/root/eth1.json")

	input, err := json.Marshal(jobs)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	r := i.Start(tb, lab.Cmd{Args: []string{"bench", "inside"}, Stdin: string(input)}).Wait(tb)
	var costs []cost
	if err := json.Unmarshal([]byte(r.Stdout), &costs); r.Status != 0 || err != nil || len(costs) != len(jobs) {
		tb.Fatalf("status %d: %s%s", r.Status, r.Stdout, r.Stderr)
	}
	byName := make(map[string]cost)
	for n, j := range jobs {
		byName[j.Name] = costs[n]
	}
	return byName
}
