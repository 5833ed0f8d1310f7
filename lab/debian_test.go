package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestChooseMirror(t *testing.T) {
	const own = `Debian Debian-Security bookworm-security http://mirror.example/debian-security
Docker Docker_CE bookworm https://docker.example/debian
Debian Debian bookworm-updates http://updates.example/debian
Debian Debian bookworm http://mirror.example/debian
`
	for _, test := range []struct{ name, targets, release, want string }{
		{"the release's own", own, "bookworm", "http://mirror.example/debian"},
		{"another release's", own, "trixie", "http://updates.example/debian"},
		{"Ubuntu", "Ubuntu Ubuntu noble http://ubuntu.example/ubuntu\n", "bookworm", ""},
		{"another method", "Debian Debian bookworm mirror+file:/etc/apt/mirrors\n", "bookworm", ""},
		{"no label", "Debian  bookworm http://mirror.example/debian\n", "bookworm", ""},
		{"nothing", "", "bookworm", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := chooseMirror(test.targets, test.release); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestUnknownRelease(t *testing.T) {
	if _, err := Debootstrap(t.Context(), "potato", os.Stderr); err == nil || !strings.Contains(err.Error(), `"potato"`) {
		t.Errorf("got %v", err)
	}
}

func TestNoDebootstrap(t *testing.T) {
	_, err := findDebootstrap([]string{"no-debootstrap", "/nowhere/debootstrap"})
	if err == nil || !strings.Contains(err.Error(), "apt-get install debootstrap") {
		t.Errorf("got %v", err)
	}
}

// TestWithoutRoot runs this test binary as nobody: the lab's tests are skipped
// there, but not where nobody reads that they were.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become nobody")
	}
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// The folder of go test's own binary is closed to others.
	dir, err := os.MkdirTemp("", "ec2net-lab")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "lab.test")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ ci, want string }{
		{"", "--- SKIP: TestSandboxStatus"},
		{"true", "--- FAIL: TestSandboxStatus"},
	} {
		cmd := exec.Command(path, "-test.v", "-test.run=^TestSandboxStatus$")
		cmd.Dir = "/"
		cmd.Env = []string{"CI=" + test.ci}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput() // fails where the test does
		if !strings.Contains(string(out), test.want) || !strings.Contains(string(out), "needs root") {
			t.Errorf("CI=%s: want %q, got:\n%s", test.ci, test.want, out)
		}
	}
}
