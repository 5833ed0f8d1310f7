package lab

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A Tree is the root of an installed Debian system. It is shared by every
// process that uses the lab and never written to.
type Tree struct {
	Release string // as in "bookworm" or "bookworm-docker"
	Dir     string
}

// recipe is part of a tree's name: count it up when [debootstrap] changes in
// a way that its arguments do not show.
const recipe = "1"

// userland has the packages that ec2net meets on an instance, beyond Debian's required
// ones and apt.
var userland = []string{
	"conntrack",
	"curl",
	"dhcpcd-base",
	"ifupdown",
	"iproute2",
	"iptables",
	"isc-dhcp-client",
	"nftables",
	"procps",
	"strace",
	"systemd",
	"systemd-sysv",
	"udev",
}

// image has the packages of Debian's official image for EC2 as far as they concern the
// network, and what tests need. Cloud-init and netplan.io bring more: in Debian 12
// dhclient. libpam-systemd, polkitd and python3-cffi-backend are named because debootstrap
// does not read Provides fields. The image's chrony would set this machine's clock.
var image = []string{
	"cloud-init",
	"conntrack",
	"curl",
	"dbus",
	"iproute2",
	"iptables",
	"libnss-myhostname",
	"libpam-systemd",
	"netplan.io",
	"nftables",
	"polkitd",
	"procps",
	"python3-cffi-backend",
	"strace",
	"sudo",
	"systemd",
	"systemd-resolved",
	"systemd-sysv",
	"udev",
}

// beside has programs that change the network of an instance beside ec2net, without what
// docker.io recommends: git, AppArmor, certificates. libpam-systemd and netavark are named
// because debootstrap does not read Provides fields.
var beside = []string{
	"busybox-static",
	"docker.io",
	"firewalld",
	"libpam-systemd",
	"netavark",
	"podman",
	"ufw",
}

// packages has the packages of each tree. One tree is enough for the router's DHCP
// server and for shellcheck. The part of a name behind the dash tells trees of one
// release apart.
var packages = map[string][]string{
	"bookworm":            slices.Concat(userland, []string{"dnsmasq-base", "shellcheck"}),
	"trixie":              userland,
	"bookworm-docker":     slices.Concat(userland, beside),
	"bookworm-docker-ec2": slices.Concat(image, beside),
	// What Debian's image for EC2 boots: see Setup.Image. In Debian 13 cloud-init asks a DHCP
	// server by dhcpcd, and the settings of rp_filter are in a package of their own.
	"bookworm-ec2": image,
	"trixie-ec2":   slices.Concat(image, []string{"dhcpcd-base", "linux-sysctl-defaults"}),
	// Programs that take DNS and time servers from a DHCP client. Debian's two resolvconf
	// packages exclude each other, and so do its time daemons.
	"bookworm-resolvconf": slices.Concat(userland, []string{"resolvconf", "systemd-timesyncd"}),
	"trixie-openresolv":   slices.Concat(userland, []string{"chrony", "openresolv"}),
	// What administrators read and type in, without what they configure.
	"bookworm-shells": {"fish", "man-db", "mandoc", "zsh"},
	// For tests of the package, not for an instance. debootstrap does not find a
	// package by another one's Provides field.
	"bookworm-packaging": {"lintian", "perl-openssl-defaults"},
}

// Debian returns one of the trees of packages, by name: Debian 12 or 13, or one
// for what few tests need. The first call on a machine builds it, which takes a
// minute or two of the test's time; lab/cmd/tree does it beforehand. With -short
// the test is skipped, whoever runs it.
func Debian(tb TB, release string) *Tree {
	tb.Helper()
	if testing.Testing() && testing.Short() {
		tb.Skipf("short: this needs a Debian tree")
	}
	needRoot(tb)
	t, err := Debootstrap(tb.Context(), release, io.Discard)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return t
}

// Debootstrap returns the tree of a release from the user's cache folder. If
// it is not there it is built, with debootstrap's output going to progress.
func Debootstrap(ctx context.Context, release string, progress io.Writer) (*Tree, error) {
	names, ok := packages[release]
	if !ok {
		return nil, fmt.Errorf("no Debian tree is defined for release %q", release)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no place for Debian trees: %w", err)
	}
	sum := sha256.Sum256([]byte(recipe + " " + strings.Join(names, " ")))
	dir := filepath.Join(cache, "ec2net", fmt.Sprintf("debian-%s-%x", release, sum[:4]))
	err = buildOnce(ctx, dir, func(partial string) error {
		return debootstrap(ctx, release, names, partial, progress)
	})
	if err != nil {
		return nil, fmt.Errorf("no Debian tree of %s: %w", release, err)
	}
	return &Tree{Release: release, Dir: dir}, nil
}

// debootstrap installs a release into dir, which does not exist yet.
func debootstrap(ctx context.Context, release string, names []string, dir string, progress io.Writer) error {
	path, err := findDebootstrap(whereDebootstrap)
	if err != nil {
		return err
	}
	suite, _, _ := strings.Cut(release, "-")
	args := []string{
		path, "--variant=minbase", "--force-check-gpg",
		"--include=" + strings.Join(names, ","), suite, dir,
	}
	if m := mirror(ctx, suite); m != "" {
		args = append(args, m)
	}

	var out bytes.Buffer
	cmd := initCommand(ctx, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout = io.MultiWriter(progress, &out)
	cmd.Stderr = cmd.Stdout
	// debootstrap mounts /proc and /sys in the tree. In a mount namespace of
	// its own they cannot outlive an interrupted build.
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	runtime.LockOSThread() // see initCommand
	err = cmd.Run()
	runtime.UnlockOSThread()
	if err != nil {
		return fmt.Errorf("debootstrap: %w, its last lines:\n%s", cmp.Or(ctx.Err(), err), lastLines(out.String(), 10))
	}
	return clean(dir)
}

// whereDebootstrap has its full name too, because a root shell from a plain
// su has no /usr/sbin in its PATH.
var whereDebootstrap = []string{"debootstrap", "/usr/sbin/debootstrap"}

func findDebootstrap(names []string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("debootstrap is missing: apt-get install debootstrap")
}

// mirror returns the mirror that this machine's own apt is set to, or "",
// which stands for debootstrap's default.
func mirror(ctx context.Context, release string) string {
	cmd := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN) $(LABEL) $(RELEASE) $(SITE)")
	out, err := cmd.Output()
	if err != nil {
		return "" // not a machine with apt
	}
	return chooseMirror(string(out), release)
}

// chooseMirror picks a site from lines of "ORIGIN LABEL RELEASE SITE". Only
// Debian's main archive will do: security, backports and other people's
// archives have other labels. Of those it prefers a site that is configured
// for the release; a mirror known for another one is likely to have it too.
func chooseMirror(targets, release string) string {
	var other string
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "Debian" || f[1] != "Debian" {
			continue
		}
		site := f[3]
		if !strings.HasPrefix(site, "http://") && !strings.HasPrefix(site, "https://") {
			continue // apt has more methods than debootstrap
		}
		if f[2] == release {
			return site
		}
		other = cmp.Or(other, site)
	}
	return other
}

// clean removes from a new tree what is large and useless, and what debootstrap
// copied from this machine.
func clean(dir string) error {
	for _, pattern := range []string{
		"var/cache/apt/archives/*.deb",
		"var/cache/apt/*.bin",
		"var/lib/apt/lists/*",
		"var/log/bootstrap.log",
		"etc/hostname",
		"etc/resolv.conf",
	} {
		found, err := fs.Glob(os.DirFS(dir), pattern)
		if err != nil {
			return fmt.Errorf("cannot clean the new tree: %w", err)
		}
		for _, name := range found {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("cannot clean the new tree: %w", err)
			}
		}
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
