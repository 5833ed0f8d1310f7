// Package deb holds the tests of the version and of the release; those of the
// package itself need the lab and are in lab/endtoend.
package deb

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var theirs = regexp.MustCompile(`^(GIT_|MAKE|MFLAGS=|GNUMAKEFLAGS=|VERSION=)`)

// top is the folder of the Makefile.
const top = "../.."

// run returns what a program prints, without the last newline.
func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	out, err := command(dir, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

// command runs a program with an identity for git, and without what a make or a
// git that runs this test has exported for its own tree.
func command(dir, program string, args ...string) (string, error) {
	if filepath.Base(program) == "version" {
		// Executed, it may be busy: another test forks while this one writes it.
		program, args = "sh", append([]string{program}, args...)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	for _, variable := range os.Environ() {
		if !theirs.MatchString(variable) {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		cmd.Env = append(cmd.Env, "GIT_"+who+"_NAME=x", "GIT_"+who+"_EMAIL=x@y.example")
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSuffix(string(out), "\n"), err
}

// changelog begins with a heading.
func changelog(heading string) string {
	return "# Changelog\n\nWhat administrators notice.\n\n## " + heading + "\n\n- One thing.\n\n## 0.0.1 (2020-01-01)\n\n- Another.\n"
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// versioned is a folder with nothing but a changelog and the script.
func versioned(t *testing.T, heading string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "CHANGELOG.md"), changelog(heading), 0o644)
	write(t, filepath.Join(dir, "hooks/deb/version"), read(t, "version"), 0o755)
	return dir
}

func commitAll(t *testing.T, dir string) {
	t.Helper()
	run(t, dir, "git", "init", "-q")
	run(t, dir, "git", "add", "-A")
	run(t, dir, "git", "commit", "-q", "-m", "x")
}

// The newest heading decides. Neither a tag nor its absence does.
func TestVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ heading, without, with string }{
		{"1.0.0 (2026-12-14)", "1.0.0", `1\.0\.0`},
		{"1.0.0-rc1 (2026-12-10)", "1.0.0~rc1", `1\.0\.0~rc1`},
		{"1.0.0 (unreleased)", "1.0.0~dev", `1\.0\.0~dev\.[0-9]{14}\.g[0-9a-f]{12}`},
		{"1.0.0-rc1 (unreleased)", "1.0.0~rc1~dev", `1\.0\.0~rc1~dev\.[0-9]{14}\.g[0-9a-f]{12}`},
	} {
		dir := versioned(t, c.heading)
		if got := run(t, dir, "hooks/deb/version"); got != c.without {
			t.Errorf("%s, without git: %s; want %s", c.heading, got, c.without)
		}
		commitAll(t, dir)
		committed := run(t, "/", filepath.Join(dir, "hooks/deb/version"))
		if !regexp.MustCompile("^" + c.with + "$").MatchString(committed) {
			t.Errorf("%s, committed: %s; want %s", c.heading, committed, c.with)
		}
		run(t, dir, "git", "tag", "v9.9.9")
		if got := run(t, dir, "hooks/deb/version"); got != committed {
			t.Errorf("%s, under a tag: %s; want %s", c.heading, got, committed)
		}
		write(t, filepath.Join(dir, "new"), "", 0o644)
		if got := run(t, dir, "hooks/deb/version"); got != committed+"+dirty" {
			t.Errorf("%s, changed: %s; want %s+dirty", c.heading, got, committed)
		}
	}
}

func TestVersionRefused(t *testing.T) {
	t.Parallel()
	for _, heading := range []string{"Unreleased", "1.0.0", "1.0 (2026-12-14)", "v1.0.0 (2026-12-14)", "1.0.0 (soon)", "1.0.0-1 (2026-12-14)"} {
		if out, err := command(versioned(t, heading), "hooks/deb/version"); err == nil || !strings.Contains(out, `"## `+heading+`" is not`) {
			t.Errorf("%s: %v, %s; want it refused", heading, err, out)
		}
	}
}

// What comes after a release without a heading of its own does not bear the
// version of the release.
func TestVersionAfterRelease(t *testing.T) {
	t.Parallel()
	for _, heading := range []string{"1.0.0 (2026-12-14)", "1.0.0-rc1 (2026-12-10)"} {
		dir := versioned(t, heading)
		number, _, _ := strings.Cut(heading, " ")
		commitAll(t, dir)
		run(t, dir, "git", "tag", "-a", "-m", "x", "v"+number)
		released := run(t, dir, "hooks/deb/version")
		run(t, dir, "git", "commit", "-q", "--allow-empty", "-m", "y")
		run(t, dir, "git", "commit", "-q", "--allow-empty", "-m", "z")
		want := regexp.MustCompile("^" + regexp.QuoteMeta(released) + `\+2\.g[0-9a-f]{12}$`)
		if got := run(t, dir, "hooks/deb/version"); strings.Contains(released, "+") || !want.MatchString(got) {
			t.Errorf("two commits after %s: %s", released, got)
		}
	}
}

// Unpacked in a repository that does not have it, the tree has no commit.
func TestVersionInsideAnotherRepository(t *testing.T) {
	t.Parallel()
	outer := t.TempDir()
	write(t, filepath.Join(outer, "file"), "", 0o644)
	commitAll(t, outer)
	run(t, outer, "cp", "-r", versioned(t, "1.0.0 (unreleased)"), "inner")
	if got := run(t, outer+"/inner", "hooks/deb/version"); got != "1.0.0~dev" {
		t.Errorf("got %s", got)
	}
}

// dpkg takes each of these for newer than the one before.
func TestVersionOrder(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("there is no dpkg, which orders versions")
	}
	order := []string{"0.1.0"}
	add := func(dir string) { order = append(order, run(t, dir, "hooks/deb/version")) }
	dir := versioned(t, "0.2.0 (unreleased)")
	add(dir)
	commitAll(t, dir)
	add(dir)
	write(t, filepath.Join(dir, "new"), "", 0o644)
	add(dir)
	run(t, dir, "git", "add", "-A")
	// Two commits of one second would be ordered by their hashes.
	run(t, dir, "env", "GIT_COMMITTER_DATE=2099-01-01T00:00:00Z", "git", "commit", "-q", "-m", "y")
	add(dir)
	for _, heading := range []string{"0.2.0-rc1 (unreleased)", "0.2.0-rc1 (2026-12-10)", "0.2.0-rc2 (2026-12-11)", "0.2.0 (2026-12-14)", "0.2.1 (unreleased)", "0.10.0 (2027-01-01)"} {
		add(versioned(t, heading))
	}
	for i := range order[1:] {
		if _, err := command("/", "dpkg", "--compare-versions", order[i], "lt", order[i+1]); err != nil {
			t.Errorf("dpkg does not take %s for newer than %s", order[i+1], order[i])
		}
	}
}

// What is installed says the version: the binary and both manual pages. (The
// package has it in its name and control file: lab/endtoend.)
func TestVersionInstalled(t *testing.T) {
	t.Parallel()
	for _, given := range []string{"", "7.8.9~rc1"} {
		want, dest, args := given, t.TempDir(), []string{"--no-print-directory", "-C", top, "install"}
		if given == "" {
			want = run(t, top, "hooks/deb/version")
		} else {
			args = append(args, "VERSION="+given)
		}
		run(t, ".", "make", append(args, "DESTDIR="+dest, "BINARY="+dest+"/ec2net")...)
		if got := run(t, ".", dest+"/usr/sbin/ec2net", "--version"); got != "ec2net "+want {
			t.Errorf("the binary says %q; want %q", got, "ec2net "+want)
		}
		for _, page := range []string{"man8/ec2net.8", "man5/ec2net-templates.5"} {
			title, _, _ := strings.Cut(read(t, dest+"/usr/share/man/"+page), "\n")
			if !strings.Contains(title, ` "ec2net `+strings.ReplaceAll(want, "~", `\(ti`)+`" `) {
				t.Errorf("%s begins with %s; want %s", page, title, want)
			}
		}
	}
}
