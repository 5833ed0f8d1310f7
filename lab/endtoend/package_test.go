package endtoend

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ec2net/lab"
	"ec2net/lab/imds"
)

// maintainer has what shells and sed would take for their own.
const maintainer = "Conan O'Brien & Sons 1/2 <conan@hosts.example>"

// makeDeb builds a package in a folder by "make deb"; more may set variables of make,
// and PATH.
func makeDeb(version, dir string, more ...string) error {
	cmd := exec.Command("make", append([]string{"-C", "../..", "deb", "DIST=" + dir, "VERSION=" + version, "DEB_ARCHS=amd64"}, more...)...)
	cmd.Env = append(os.Environ(), "MAINTAINER="+maintainer, "DPKG_DEB_COMPRESSOR_LEVEL=0") // quick
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make deb: %w\n%s", err, out)
	}
	return nil
}

// builtPackages returns a tree with the package and its next version in /root, to
// install from there.
var builtPackages = sync.OnceValues(func() (string, error) {
	dir := packagesDir
	return dir, errors.Join(makeDeb("1.0", dir+"/root"), makeDeb("1.1", dir+"/root"))
})

func packages(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the lab needs root")
	}
	dir, err := builtPackages()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Two builds give the same bytes, with a Go that is in PATH and one that is not,
// and lintian finds no fault with them.
func TestPackage(t *testing.T) {
	t.Parallel()
	first, second := packages(t)+"/root", t.TempDir()
	gotool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	if err := makeDeb("1.0", second, "GO="+gotool, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ec2net_1.0_amd64.deb", "ec2net_1.0_amd64.cdx.json"} {
		if !bytes.Equal(read(t, first, name), read(t, second, name)) {
			t.Errorf("two builds of %s differ", name)
		}
	}
	r := lab.Debian(t, "bookworm-packaging").Run(t, lab.Cmd{
		Files: map[string]string{"/root/ec2net.deb": string(read(t, first, "ec2net_1.0_amd64.deb"))},
		Args:  []string{"lintian", "--allow-root", "--tag-display-limit=0", "--fail-on=error,warning", "/root/ec2net.deb"},
	})
	t.Logf("lintian:\n%s%s", r.Stdout, r.Stderr)
	for field, want := range map[string]string{"Maintainer": maintainer, "Version": "1.0"} {
		control, err := exec.Command("dpkg-deb", "--field", first+"/ec2net_1.0_amd64.deb", field).Output()
		if got := strings.TrimSpace(string(control)); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", field, got, err, want)
		}
	}
	if r.Status != 0 {
		t.Errorf("lintian: status %d", r.Status)
	}
	examples, err := filepath.Glob("../../examples/*/*")
	if err != nil || len(examples) == 0 {
		t.Errorf("no examples: %v", err)
	}
	list, err := exec.Command("dpkg-deb", "--contents", first+"/ec2net_1.0_amd64.deb").Output()
	for _, path := range examples {
		if !strings.Contains(string(list), " ./usr/share/doc/ec2net/"+strings.TrimPrefix(path, "../../")+"\n") {
			t.Errorf("not in the package: %s (%v)", path, err)
		}
	}

	scripts := make(map[string]string)
	for _, name := range []string{"build", "version", "release", "preinst", "postinst", "prerm", "postrm"} {
		scripts["/root/"+name] = string(read(t, "../../hooks/deb", name))
	}
	r = lab.Debian(t, "bookworm").Run(t, lab.Cmd{Files: scripts, Args: []string{"sh", "-c", "shellcheck /root/*"}})
	if r.Status != 0 {
		t.Errorf("shellcheck:\n%s%s", r.Stdout, r.Stderr)
	}
}

// The build fails, and says why, if it cannot find something out.
func TestPackageBuildFails(t *testing.T) {
	t.Parallel()
	packages(t) // or why there are none
	for _, c := range []struct{ name, does, says string }{
		{"no modules", `[ "$1" = version ] && exit`, "no modules in what was built"},
		{"no licenses", `[ "$1" = list ] && { echo no network >&2; exit 1; }`, "no network"},
		{"no list of modules", `[ "$1" = tool ] && { echo no tool >&2; exit 1; }`, "no tool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			gotool := filepath.Join(t.TempDir(), "go")
			if err := os.WriteFile(gotool, []byte("#!/bin/sh\n"+c.does+"\nexec go \"$@\"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := makeDeb("1.0", t.TempDir(), "GO="+gotool); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q", err, c.says)
			}
		})
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listing lists the files on the disk, with the sums of those in /etc, without those
// that a running system writes: logs, leases, and dpkg's own copies of its list.
const listing = `
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /root -o -path /var/log -o -path /var/tmp \
	-o -path /var/cache -o -path '/var/lib/dhcp/*' -o -path /var/lib/systemd/timers -o -path '/run/systemd/*' -o -path '/run/udev/*' \
	-o -path '/run/log/*' -o -path '/var/lib/dpkg/*-old' \) -prune -o -printf '%p %y %m %u\n' | LC_ALL=C sort
find /etc -type f -exec md5sum {} + | LC_ALL=C sort -k2
ls -d /run/ec2net 2>/dev/null || :
`

// The package is installed, used, upgraded, removed and purged: interfaces that are up
// are never touched, an administrator's files stay as long as they should, and in the
// end all is as before.
func TestPackageLife(t *testing.T) {
	t.Parallel()
	debs := packages(t)
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			eth1.Options(t, "dns-server,10.9.1.2", "domain-name,second.example")
			i := v.Boot(t, lab.Setup{Release: release, Systemd: true, Install: debs, Files: files})
			places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99")}
			i.WaitRunning(t)
			before, names := i.Sh(t, listing), i.Sh(t, resolver)
			t.Logf("without ec2net:\n%s", i.Sh(t, boottime))

			i.Sh(t, "dpkg -i /root/ec2net_1.0_amd64.deb")
			noneFailed(t, i)
			i.Echo(t, 7)
			eth1.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			answers(t, v, places, "10.0.0.10", "10.0.0.20", "10.0.0.21")
			sameState(t, "DNS, installed", names, i.Sh(t, resolver))
			noneFailed(t, i)

			i.Reboot(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			v.ResetCounters(t)
			answers(t, v, places, "10.0.0.10", "10.0.0.20", "10.0.0.21")

			// Upgraded: what is edited stays, what is disabled stays so, what
			// is up is not touched.
			i.Sh(t, `
echo EC2NET_MARK_MASK=0x3fff >>/etc/default/ec2net
echo '# mine' | tee -a /etc/dhcp/dhclient-exit-hooks.d/ec2net >>/etc/dhcp/dhclient-enter-hooks.d/ec2net
echo '{{define "cfg-post-up"}}{{end}}' >/etc/ec2net/templates/blocks.tmpl
systemctl -q disable ec2net-docker.service`)
			edited := `cat /etc/default/ec2net /etc/dhcp/dhclient-*-hooks.d/ec2net /etc/ec2net/templates/blocks.tmpl
systemctl is-enabled ec2net-scan.service ec2net-docker.service ec2net-watch.service || :`
			mine, up := i.Sh(t, edited), running(t, i)
			i.Sh(t, "dpkg -i /root/ec2net_1.1_amd64.deb")
			if version := i.Sh(t, "ec2net --version"); !strings.Contains(version, "1.1") {
				t.Errorf("after the upgrade: %s", version)
			}
			sameState(t, "DNS, booted and upgraded", names, i.Sh(t, resolver))
			sameState(t, "what was edited, upgraded", mine, i.Sh(t, edited))
			sameState(t, "upgraded", up, running(t, i))
			noneFailed(t, i)

			// Installed again over itself.
			i.Sh(t, "dpkg -i /root/ec2net_1.1_amd64.deb")
			sameState(t, "installed again", up, running(t, i))

			// Removed and there again: the configuration is as it was.
			i.Sh(t, "dpkg -r ec2net")
			sameState(t, "removed", strings.Replace(up, "/usr/sbin/ec2net watch\n", "", 1), running(t, i))
			i.Sh(t, "test -e /etc/network/interfaces.d/eth1.cfg && test ! -e /usr/sbin/ec2net")
			i.Sh(t, "dpkg -i /root/ec2net_1.1_amd64.deb")
			sameState(t, "what was edited, removed and installed", mine, i.Sh(t, edited))
			sameState(t, "removed and installed", up, running(t, i))
			answers(t, v, places, "10.0.0.10", "10.0.0.20", "10.0.0.21")
			noneFailed(t, i)

			i.Shutdown(t)
			eth1.Detach(t)
			i.On(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			lacks(t, i.State(t), "1001", "10.0.0.20")
			critical(t, i)

			i.Sh(t, "dpkg -P ec2net")
			noneFailed(t, i)
			sameState(t, "purged", before, i.Sh(t, listing))
			sameState(t, "DNS, purged", names, i.Sh(t, resolver))
			i.Reboot(t)
			i.WaitRunning(t)
			sameState(t, "purged and booted", before, i.Sh(t, listing))
		})
	}
}

// The package is removed while an ENI waits for its next try: its unit ends; units that
// have run stay, with what they made. No unit fails, then or later.
func TestRemovedWhileWaiting(t *testing.T) {
	t.Parallel()
	debs := packages(t)
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{})
			all := maps.Clone(files)
			all["/etc/systemd/system/docker.service"] = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
			i := v.Boot(t, lab.Setup{Release: release, Systemd: true, Install: debs, Files: all})
			i.WaitRunning(t)
			i.Sh(t, "dpkg -i /root/ec2net_1.0_amd64.deb; systemctl start docker.service")
			first, second := v.AddENI(t, "10.0.0.20"), v.AddENI(t, "10.0.1.20")
			first.Attach(t, "eth1")
			waitUp(t, i, "eth1")
			v.IMDS.Fault(imds.Fault{Status: 403})
			second.Attach(t, "eth2")
			i.WaitSh(t, "test auto-restart = $(systemctl show --property=SubState --value ec2net-hotplug@eth2.service)")
			const docker = "systemctl is-active ec2net-docker.service; iptables -t mangle -S"
			up, marks := running(t, i), i.Sh(t, docker)

			purged := i.Sh(t, "dpkg -P ec2net")
			sameState(t, "purged", up, running(t, i))
			sameState(t, "purged", marks, i.Sh(t, docker))
			noneFailed(t, i)
			i.Sh(t, "test dead = $(systemctl show --property=SubState --value ec2net-hotplug@eth2.service)")
			i.Sh(t, "systemctl restart docker.service")
			noneFailed(t, i)

			// The commands that purging prints take away what it has left in the kernel.
			_, commands, _ := strings.Cut(purged, "remove the rest:\n")
			i.Sh(t, commands)
			lacks(t, i.State(t), "proto 236", "table 1001", "ec2net-")
		})
	}
}

// resolver prints what the machine has of the primary's DHCP server.
const resolver = "hostname; cat /etc/resolv.conf"

// running is the state with the DHCP clients, by their process IDs.
func running(t *testing.T, i *lab.Instance) string {
	t.Helper()
	return i.State(t) + i.Sh(t, "pgrep -a -x 'dhclient|dhcpcd'")
}

const boottime = "systemd-analyze --no-pager time; systemd-analyze --no-pager critical-chain multi-user.target network-online.target"

// critical fails if anything of the boot has waited for ec2net.
func critical(t *testing.T, i *lab.Instance) {
	t.Helper()
	chain := i.Sh(t, boottime)
	t.Logf("with ec2net:\n%s", chain)
	lacks(t, chain, "ec2net")
	// Nor would anything have waited, had it been slower.
	for _, target := range []string{"multi-user.target", "network-online.target", "network-pre.target", "sysinit.target"} {
		lacks(t, i.Sh(t, "systemctl list-dependencies --after --plain --no-pager "+target), "ec2net")
	}
}

// In a throwaway root: what the maintainer scripts do with the files that they find.
func TestPackageFiles(t *testing.T) {
	t.Parallel()
	debs := packages(t)
	const install = "dpkg -i /root/ec2net.deb >/dev/null 2>&1\n"
	for _, c := range []struct{ name, script string }{
		{"Debian's interfaces", `
echo 'source /etc/network/interfaces.d/*' >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
` + install + `cmp /tmp/before /etc/network/interfaces; dpkg -P ec2net; cmp /tmp/before /etc/network/interfaces`},
		{"no line that sources", `
printf 'auto lo\niface lo inet loopback\nsource-directory interfaces.d\n' >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
` + install + install + `test 1 = "$(grep -cx 'source /etc/network/interfaces.d/\*.cfg' /etc/network/interfaces)"
ifquery --list
dpkg -r ec2net; grep -q ^source /etc/network/interfaces
dpkg -P ec2net; cmp /tmp/before /etc/network/interfaces`},
		{"the folder is read already, by another spelling", `
for line in 'source ./interfaces.d/*.cfg' 'source /etc/network//interfaces.d/*' 'source /nowhere /etc/network/interf*/*.cfg' 'source \
 /etc/"network"/interfaces.d/eth*.cfg'; do
	printf 'auto lo\n%s\n' "$line" >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
` + install + `cmp /tmp/before /etc/network/interfaces; dpkg -P ec2net; cmp /tmp/before /etc/network/interfaces
done`},
		{"the folder is read already, by way of another file", `
mkdir /etc/network/more; echo 'source ../interfaces.d/*' >/etc/network/more/all
printf 'source-directory more\n' >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
` + install + `cmp /tmp/before /etc/network/interfaces`},
		{"each stanza is read once", `
printf 'source more\n' >/etc/network/interfaces; printf 'source ./interfaces.d/*\n' >/etc/network/more
` + install + `printf '# Generated by ec2net\niface eth1 inet manual\n  up once\n' >/etc/network/interfaces.d/eth1.cfg
test "up: once" = "$(ifquery eth1)"`},
		{"a line of which it cannot be told what it reads", `
printf 'auto lo\nsource $ETC/network/interfaces.d/*\n' >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
dpkg -i /root/ec2net.deb 2>&1 >/dev/null | grep 'cannot tell .*line 2'; cmp /tmp/before /etc/network/interfaces`},
		{"an interfaces file that is none", `
rm -f /etc/network/interfaces; mkdir /etc/network/interfaces
dpkg -i /root/ec2net.deb 2>&1 >/dev/null | grep 'is not a regular file'; rmdir /etc/network/interfaces`},
		{"a last line without an end", `
printf 'auto lo\niface lo inet loopback' >/etc/network/interfaces
` + install + `test lo = "$(ifquery --list)"; grep -qx 'source /etc/network/interfaces.d/\*.cfg' /etc/network/interfaces`},
		{"somebody else's cfg, which is not read", `
printf 'auto lo\niface lo inet loopback\n' >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
echo 'iface eth9 inet dhcp' >/etc/network/interfaces.d/eth9.cfg
dpkg -i /root/ec2net.deb 2>&1 >/dev/null | grep -q 'does not read /etc/network/interfaces.d/eth9.cfg'
cmp /tmp/before /etc/network/interfaces; dpkg -P ec2net; test -e /etc/network/interfaces.d/eth9.cfg`},
		{"cfg files that need the line", `
printf 'auto lo\niface lo inet loopback\n' >/etc/network/interfaces
` + install + `
printf '# Generated by ec2net from x.\n# EC2SYNC=no\nauto eth2\niface eth2 inet manual\n' >/etc/network/interfaces.d/eth2.cfg
printf 'auto br0\niface br0 inet manual\n' >/etc/network/interfaces.d/br0.cfg
dpkg -P ec2net | grep -q 'keeps the line: source .*/br0.cfg'
test "br0 eth2 lo" = "$(ifquery --list | sort | xargs)"; ! grep '^#' /etc/network/interfaces`},
		{"lines moved, and lines in between", `
printf 'auto lo\niface lo inet loopback\n' >/etc/network/interfaces
` + install + `
sed -i -e /^source/d /etc/network/interfaces
printf 'auto eth0\niface eth0 inet manual\nsource /etc/network/interfaces.d/*.cfg\n' >>/etc/network/interfaces
grep -v '^#' /etc/network/interfaces >/tmp/without
dpkg -P ec2net; cmp /tmp/without /etc/network/interfaces`},
		{"a comment at the end", `
printf 'auto lo\n' >/etc/network/interfaces; cp /etc/network/interfaces /tmp/before
` + install + `sed -i /^source/d /etc/network/interfaces
dpkg -P ec2net; cmp /tmp/before /etc/network/interfaces`},
		{"no interfaces", `
rm -f /etc/network/interfaces
` + install + `test -s /etc/network/interfaces
dpkg -P ec2net; test ! -e /etc/network/interfaces`},
		{"generated and taken over", install + `
printf '# Generated by ec2net from x.\n' >/etc/network/interfaces.d/eth1.cfg
printf '# Generated by ec2net from x.\n  # EC2SYNC=no\n' >/etc/network/interfaces.d/eth2.cfg
mkdir -p /run/ec2net; touch /var/lib/ec2net/eth1.rules /run/ec2net/eth1.up /etc/ec2net/templates/blocks.tmpl
dpkg -r ec2net; test -e /etc/network/interfaces.d/eth1.cfg; test -e /var/lib/ec2net/eth1.rules; test -e /etc/ec2net/templates/blocks.tmpl
dpkg -P ec2net; test eth2.cfg = "$(ls /etc/network/interfaces.d)"; test ! -e /var/lib/ec2net; test ! -e /run/ec2net; test ! -e /etc/ec2net`},
		{"upstart", `
printf '#!/bin/sh\necho init "(upstart 1.12.1)"\n' >/usr/sbin/initctl; chmod 755 /usr/sbin/initctl; mkdir -p /etc/init
` + install + `test "docker-finish.conf ec2net-watch.conf elastic-network-interfaces.conf" = "$(echo $(ls /etc/init))"
echo '# mine' >>/etc/init/docker-finish.conf
` + install + `grep -qx '# mine' /etc/init/docker-finish.conf; test -e /etc/init/ec2net-watch.conf
dpkg -r ec2net; test docker-finish.conf = "$(ls /etc/init)"
dpkg -P ec2net; test -z "$(ls /etc/init)"`},
		{"an older tool's upstart jobs", `
mkdir -p /etc/init; echo 'exec /usr/sbin/ec2ifscan' >/etc/init/elastic-network-interfaces.conf; echo 'exec docker-finish' >/etc/init/docker-finish.conf
` + install + `dpkg -r ec2net; cp -a /var/backups/ec2net/. /
dpkg -P ec2net; test "docker-finish.conf elastic-network-interfaces.conf" = "$(echo $(ls /etc/init))"`},
		{"names of an older tool's, but ec2net's own", install + `
systemctl mask ec2net-scan.service; dpkg -r ec2net
` + install + `test masked = "$(systemctl is-enabled ec2net-scan.service || :)"; systemctl unmask ec2net-scan.service
sed 's/^Description=.*/&, mine/' /usr/lib/systemd/system/ec2net-scan.service >/etc/systemd/system/ec2net-scan.service
mkdir -p /etc/init; cp /usr/share/ec2net/upstart/*.conf /etc/init; echo '# mine' | tee -a /etc/init/*.conf
dpkg -r ec2net; find /etc ! -name 95-ec2net.cfg | sort >/tmp/before
` + install + `test ! -e /var/backups/ec2net; test -z "$(find /etc | sort | comm -23 /tmp/before -)"; test enabled = "$(systemctl is-enabled ec2net-scan.service)"`},
		{"no upstart", install + "test ! -e /etc/init"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := lab.Debian(t, "bookworm").Run(t, lab.Cmd{
				Files: map[string]string{"/root/ec2net.deb": string(read(t, debs, "root/ec2net_1.0_amd64.deb"))},
				Args:  []string{"sh", "-exc", c.script},
			})
			if r.Status != 0 {
				t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
			}
		})
	}
}
