package deb

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// committed is a repository with what git knows of this tree, or of these parts of
// it, as it is on the disk, under another changelog.
func committed(t *testing.T, changelog string, parts ...string) string {
	t.Helper()
	dir := t.TempDir()
	list := append([]string{"ls-files", "--cached", "--others", "--exclude-standard", "--"}, parts...)
	for name := range strings.SplitSeq(run(t, top, "git", list...), "\n") {
		info, err := os.Lstat(filepath.Join(top, name))
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		} else if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), read(t, filepath.Join(top, name)), info.Mode().Perm())
	}
	write(t, filepath.Join(dir, "CHANGELOG.md"), changelog, 0o644)
	commitAll(t, dir)
	return dir
}

// release makes a release of amd64 alone, which is packed in a hurry.
func release(dir string) (string, error) {
	return command(dir, "env", "DPKG_DEB_COMPRESSOR_LEVEL=0", "make", "--no-print-directory", "release", "DEB_ARCHS=amd64")
}

// What is no release is refused before anything is built.
func TestReleaseRefused(t *testing.T) {
	t.Parallel()
	dir := committed(t, changelog("1.0.0 (2026-12-14)"), "Makefile", "README.md", ".gitignore", "hooks/deb")
	for _, c := range []struct{ name, do, says string }{
		{"an unreleased version", "sed -i 's/(2026-12-14)/(unreleased)/' CHANGELOG.md; git commit -qam x", "~dev"},
		{"a heading without a form", "sed -i 's/1.0.0/Unreleased/' CHANGELOG.md; git commit -qam x", "Unreleased"},
		{"a change", "echo >>README.md", "M README.md"},
		{"a new file", "touch new", "?? new"},
		{"commits after the tag", "git tag v1.0.0; git commit -q --allow-empty -m x", "+1.g"},
		{"no notes", "sed -i '/One thing/d' CHANGELOG.md; git commit -qam x", "says nothing about 1.0.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clone := filepath.Join(t.TempDir(), "clone")
			run(t, "/", "git", "clone", "-q", dir, clone)
			run(t, clone, "sh", "-euc", c.do)
			out, err := release(clone)
			if err == nil || !strings.Contains(out, c.says) {
				t.Errorf("%v, %s; want %q", err, out, c.says)
			}
			if _, err := os.Stat(clone + "/dist"); err == nil {
				t.Errorf("there is a dist")
			}
		})
	}
}

// A release is the packages, their lists of modules, the changelog's words for
// this version alone, and the sums of these: not of what dist had before.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("short: a release builds a package")
	}
	t.Parallel()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("there is no dpkg-deb, which builds packages")
	}
	dir := committed(t, changelog("1.0.0-rc1 (2026-12-10)"))
	old := dir + "/dist/ec2net_0.9.0_amd64.deb"
	write(t, old, "", 0o644)
	if out, err := release(dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const deb = "ec2net_1.0.0~rc1_amd64.deb"
	summed := strings.Split(run(t, dir+"/dist", "sha256sum", "-c", "SHA256SUMS"), "\n")
	if want := []string{"ec2net_1.0.0~rc1_amd64.cdx.json: OK", deb + ": OK", "NOTES.md: OK"}; !slices.Equal(summed, want) {
		t.Errorf("sums: %q; want %q", summed, want)
	}
	if got := read(t, dir+"/dist/NOTES.md"); got != "- One thing.\n" {
		t.Errorf("notes: %q", got)
	}
	if got := run(t, dir, "dpkg-deb", "--field", "dist/"+deb, "Version"); got != "1.0.0~rc1" {
		t.Errorf("the package says %s", got)
	}
	run(t, dir, "dpkg-deb", "--extract", "dist/"+deb, "root")
	if got := run(t, dir, "root/usr/sbin/ec2net", "--version"); got != "ec2net 1.0.0~rc1" {
		t.Errorf("the binary says %s", got)
	}
}
