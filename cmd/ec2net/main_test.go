package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"ec2net/lab/imds"
	"ec2net/lab/unshared"
)

// toolDir is the folder with the ec2net that the scripts run.
const toolDir = "EC2NET_TEST_TOOL"

// TestMain builds the tool as a release is built, and runs the tests in a network
// namespace of their own, which ends with the process. There eth0 and eth1 have the MACs
// of the fake IMDS.
func TestMain(m *testing.M) {
	if work := os.Getenv(machineOf); work != "" {
		fmt.Fprintln(os.Stderr, runOnMachine(work)) // it returns only if it fails
		os.Exit(1)
	}
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // it starts itself again, and needs neither
	}
	if os.Getenv(toolDir) == "" {
		os.Exit(again())
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(unshared.OwnRoot(filepath.Join(os.Getenv(toolDir), "root")), addInterfaces()); err != nil {
			fmt.Fprintln(os.Stderr, "cannot prepare the namespace:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// again builds the tool and runs this test binary once more.
func again() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "ec2net-test-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	// The scripts run the tool as another user, too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
		return fail(err)
	}
	if err := goBuild(filepath.Join(dir, "ec2net"), "."); err != nil {
		return fail(err)
	}
	return unshared.Again(toolDir + "=" + dir)
}

// coverDir is where "make cover" collects which statements ran, the tool's among them.
func coverDir() string { return flag.Lookup("test.gocoverdir").Value.String() }

// goBuild builds the program in a folder as a release is built.
func goBuild(to, dir string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to)
	if coverDir() != "" {
		cmd.Args = append(cmd.Args, "-cover", "-coverpkg=ec2net/...")
	}
	cmd.Args = append(cmd.Args, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build: %w\n%s", err, out)
	}
	return nil
}

func addInterfaces() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for name, mac := range map[string]string{
		"eth0": imds.Primary().MAC, "eth1": imds.Secondary().MAC, "eth2": "02:00:00:00:02:99",
	} {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, hw
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer-" + name}); err != nil {
			return err
		}
	}
	eth1, err := netlink.LinkByName("eth1")
	if err != nil {
		return err
	}
	return netlink.LinkAddAltName(eth1, "alt1")
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// No settings or templates of this machine, unless a script says so.
			env.Setenv("EC2NET_TEMPLATES", env.WorkDir+"/templates")
			env.Setenv("GOCOVERDIR", coverDir())
			env.Setenv("ESCAPES", "a\x1b]0;b\a\nec2net: c")
			tools := os.Getenv(toolDir)
			if os.Geteuid() == 0 {
				var err error
				if tools, err = newMachine(env); err != nil {
					return err
				}
				env.Setenv("ANOTHER_USER", "setpriv --reuid=65534 --regid=65534 --clear-groups")
				if !unshared.Root() {
					env.Setenv("ANOTHER_USER", "unshare --user")
				}
			}
			env.Setenv("PATH", tools+string(os.PathListSeparator)+env.Getenv("PATH"))
			if err := os.WriteFile(env.WorkDir+"/crlf", []byte("EC2NET_BASE=2000\r\n"), 0o644); err != nil {
				return err
			}
			return os.Mkdir(env.WorkDir+"/templates", 0o755)
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "machine-root": // not that of a user namespace
				return unshared.Root(), nil
			}
			return false, fmt.Errorf("no condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":   status,
			"imds":     startIMDS,
			"requests": requests,
			"one-line": oneLineOnStderr,
			"log":      logOfMachine,
		},
	})
}

// status N COMMAND...: the command exits with just this status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// one-line: the error is one line of the tool's, and perhaps a hint.
func oneLineOnStderr(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stderr"), "\n"), "\n")
	if !strings.HasPrefix(lines[0], "ec2net: ") || len(lines[0]) > 400 || len(lines) > 2 ||
		(len(lines) == 2 && !strings.HasPrefix(lines[1], "hint: ")) {
		ts.Fatalf("not one clear line: %q", lines)
	}
	if strings.ContainsAny(lines[0][len(lines[0])-1:], ".!") {
		ts.Fatalf("an error ends without a full stop: %q", lines[0])
	}
}

// servers has the running servers, by script.
var servers sync.Map

// imds FAULT: serves IMDS for an instance with the ENIs eth0 and eth1 on loopback,
// at AWS_EC2_METADATA_SERVICE_ENDPOINT.
func startIMDS(ts *testscript.TestScript, neg bool, args []string) {
	secondary := imds.Secondary()
	fault := imds.Fault{}
	if len(args) > 0 {
		text := func(s string) *string { return &s }
		switch args[0] {
		case "hang":
			fault = imds.Fault{Path: "local-ipv4s", Hang: true}
		case "401":
			fault = imds.Fault{Path: "meta-data", Status: 401}
		case "403":
			fault = imds.Fault{Status: 403}
		case "404":
			fault = imds.Fault{Path: "meta-data", Status: 404}
		case "500":
			fault = imds.Fault{Path: "local-ipv4s", Status: 500}
		case "truncated":
			fault = imds.Fault{Path: "local-ipv4s", Body: text("10.0.1.20\n10.0.1.21"), Truncate: 12}
		case "hostile-address":
			secondary.Raw = map[string]string{"local-ipv4s": "10.0.1.20; reboot"}
		case "hostile-subnet":
			secondary.Raw = map[string]string{"subnet-ipv4-cidr-block": "$(id)"}
		case "hostile-id":
			secondary.Raw = map[string]string{"interface-id": "eni-1\n    post-up reboot"}
		case "megabyte":
			secondary.Raw = map[string]string{"local-ipv4s": strings.Repeat("10.0.1.20\n", 100_000)}
		default:
			ts.Fatalf("no fault %q", args[0])
		}
	}
	s := imds.New(imds.Primary(), secondary)
	if fault != (imds.Fault{}) {
		s.Fault(fault)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	go s.Serve(l)
	ts.Defer(func() { s.Close() })
	ts.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+l.Addr().String())
	servers.Store(ts.Name()+ts.Getenv("WORK"), s)
}

// requests N: IMDS got at most this many, each but the first with a token.
func requests(ts *testscript.TestScript, neg bool, args []string) {
	s, _ := servers.Load(ts.Name() + ts.Getenv("WORK"))
	log := s.(*imds.Server).Requests()
	var most int
	if _, err := fmt.Sscan(args[0], &most); err != nil {
		ts.Fatalf("%v", err)
	}
	if len(log) > most || len(log) == 0 {
		ts.Fatalf("%d requests, where %d are enough", len(log), most)
	}
	for _, r := range log {
		if r.Method != "PUT" && !r.TokenValid {
			ts.Fatalf("without a token: %s", r.Path)
		}
	}
}

// Joined errors make one line, each once.
func TestTold(t *testing.T) {
	one, two := errors.New("one"), errors.New("two")
	if got := joinOnce(errors.Join(one, errors.Join(two, one))); got != "one; two" {
		t.Errorf("got %q", got)
	}
}
