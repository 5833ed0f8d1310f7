package endtoend

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ec2net/lab"
)

// Only ENIs are ec2net's: a veth, a bridge and a tun that come and go start no program
// and cause no request.
func TestOnlyENIs(t *testing.T) { onStacks(t, testOnlyENIs) }

func testOnlyENIs(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	i := v.Boot(t, s.with(lab.Setup{Install: installed})) // without the rule that makes the lab's veths count
	if s.setup.Image {
		i.WaitRunning(t)
	}
	asked := len(v.IMDS.Requests())
	i.Sh(t, `
mv /usr/sbin/ec2net /usr/sbin/ec2net.real
printf '#!/bin/sh\necho "$0 $*" >>/run/called\n' >/usr/sbin/ec2net
chmod 755 /usr/sbin/ec2net
ip link add veth1 type veth peer name veth2
ip link add br0 type bridge
mkdir -p /dev/net; test -e /dev/net/tun || mknod /dev/net/tun c 10 200
ip tuntap add tun0 mode tun
udevadm settle
ip link del veth1; ip link del br0; ip link del tun0
udevadm settle
`)
	if called, ok := i.ReadFile(t, "/run/called"); ok {
		t.Errorf("called: %s", called)
	}
	if n := len(v.IMDS.Requests()); n != asked {
		t.Errorf("%d requests", n-asked)
	}
	// The same rules file, the same program, a device that counts as an ENI.
	i.Sh(t, `
echo 'SUBSYSTEM=="net", KERNEL=="eth7", ENV{EC2NET_ENI}="1"' >/etc/udev/rules.d/52-lab.rules
udevadm control --reload
ip link add eth7 type veth peer name peer7
udevadm settle
`)
	i.WaitSh(t, "grep -q . /run/called")
}

// Debian's own checkers accept the installed files.
func TestInstalled(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the lab needs root")
	}
	installs := make(map[string]string)
	var units []string
	for _, pattern := range []string{
		"/etc/dhcp/dhclient-enter-hooks.d/ec2net", "/usr/lib/dhcpcd/dhcpcd-hooks/00-ec2net-dns",
		"/etc/dhcp/dhclient-exit-hooks.d/ec2net", "/usr/lib/dhcpcd/dhcpcd-hooks/90-ec2net", "/etc/default/ec2net",
		"/usr/lib/udev/rules.d/53-ec2-network-interfaces.rules", "/usr/lib/systemd/system/*.service", "/etc/init/*.conf",
	} {
		found, err := filepath.Glob(installed + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %d installs", pattern, err, len(found))
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			installs[strings.TrimPrefix(path, installed)] = string(text)
			if name := filepath.Base(path); strings.HasSuffix(name, ".service") {
				units = append(units, strings.Replace(name, "@.", "@eth1.", 1))
			}
		}
	}
	check := func(release, script string) {
		t.Helper()
		r := lab.Debian(t, release).Run(t, lab.Cmd{Files: installs, Args: []string{"sh", "-ec", script}})
		if r.Status != 0 || strings.TrimSpace(r.Stdout+r.Stderr) != "" {
			t.Errorf("%s, status %d:\n%s%s", script, r.Status, r.Stdout, r.Stderr)
		}
	}
	check("bookworm", "shellcheck --shell=sh /etc/dhcp/dhclient-exit-hooks.d/ec2net /usr/lib/dhcpcd/dhcpcd-hooks/90-ec2net")
	check("bookworm", "shellcheck --shell=sh /etc/dhcp/dhclient-enter-hooks.d/ec2net /usr/lib/dhcpcd/dhcpcd-hooks/00-ec2net-dns")
	check("bookworm", "for hook in /etc/dhcp/dhclient-*-hooks.d/ec2net; do dash -n $hook; done; dash -eu /etc/default/ec2net")
	// dhclient-script takes only what run-parts lists.
	for _, when := range []string{"enter", "exit"} {
		check("bookworm", "run-parts --list /etc/dhcp/dhclient-"+when+"-hooks.d | grep -qx /etc/dhcp/dhclient-"+when+"-hooks.d/ec2net")
	}
	check("trixie", "udevadm verify --no-summary /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules")
	// The shell parts of upstart's jobs, and that each is closed.
	check("bookworm", `
for job in /etc/init/*.conf; do
	sed -n -e 's/^end script$/}/' -e 's/^\([a-z-]* \)\?script$/{/' -e '/^{$/,/^}$/p' $job | dash -n
	grep -q '^[[:space:]]*exec /usr/sbin/ec2net ' $job
done`)
	for _, release := range []string{"bookworm", "trixie"} {
		check(release, `
printf '#!/bin/sh\n' >/usr/sbin/ec2net; chmod 755 /usr/sbin/ec2net
systemd-analyze verify --man=no `+strings.Join(units, " "))
	}
}

// Templates may be anywhere where only root writes: confined units see a folder below
// /home too.
func TestTemplatesInHome(t *testing.T) { onStacks(t, testTemplatesInHome) }

func testTemplatesInHome(t *testing.T, s stack) {
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20")
	eth1.Attach(t, "eth1")
	all := maps.Clone(files)
	all["/etc/default/ec2net"] = "EC2NET_TEMPLATES=/home/admin/templates\nEC2NET_PRIMARY_TABLE=yes\nEC2NET_MARKS=yes\n"
	all["/home/admin/templates/blocks.tmpl"] = `{{define "docker-rules"}}
-A {{.Chain}} -m comment --comment from-home
{{end}}`
	i := v.Boot(t, s.with(lab.Setup{Systemd: true, Install: installed, Files: all,
		Prepare: "systemctl -q enable ec2net-scan.service ec2net-watch.service; chmod 755 /home/admin /home/admin/templates"}))
	i.WaitRunning(t)
	waitUp(t, i, "eth1")
	i.WaitSh(t, "ip route show table 1000 | grep -q default")
	i.Sh(t, `
systemctl start ec2net-docker.service
iptables -t mangle -S ec2net-docker | grep -q from-home
systemctl is-active ec2net-scan.service ec2net-docker.service ec2net-watch.service`)
	noneFailed(t, i)
}
