package endtoend

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"ec2net/lab"
)

// old is a program or a job of an older tool, which says that it was run.
const old = "#!/bin/sh\necho \"$0 $*\" >>/var/local/old-tool-ran\n"

// oldRule is the udev rule of the older tools, which call their own hotplug.
const oldRule = `ACTION=="add|remove", SUBSYSTEM=="net", KERNEL=="eth*", RUN+="%s"` + "\n"

const oldGenerator = `# default comment
SUBSYSTEM=="net", ACTION=="add", ENV{COMMENT}="elastic network interface"
`

// oldUnit is the job that looks for ENIs at boot.
const oldUnit = `[Unit]
After=networking.service
[Service]
Type=oneshot
ExecStart=/usr/sbin/ec2ifscan
[Install]
WantedBy=multi-user.target
`

// ubuntuEC2Net has the installed files of the forks of ubuntu-ec2net.
var ubuntuEC2Net = map[string]string{
	"/etc/udev/rules.d/53-ec2-network-interfaces.rules":      strings.ReplaceAll(oldRule, "%s", "/etc/network/ec2net.hotplug"),
	"/etc/udev/rules.d/75-persistent-net-generator.rules":    oldGenerator,
	"/etc/network/ec2net.hotplug":                            old,
	"/etc/network/ec2net-functions":                          old,
	"/etc/dhcp/dhclient-exit-hooks.d/ec2dhcp":                "echo ec2dhcp >>/var/local/old-tool-ran\n",
	"/etc/init/elastic-network-interfaces.conf":              "start on net-device-up\n",
	"/etc/init/docker-finish.conf":                           "start on started docker\n",
	"/usr/sbin/ec2ifup":                                      old,
	"/usr/sbin/ec2ifdown":                                    old,
	"/usr/sbin/ec2ifscan":                                    old,
	"/usr/sbin/ec2ifupscan":                                  old,
	"/etc/systemd/system/elastic-network-interfaces.service": oldUnit,
	"/etc/dhcp/dhclient-eth1.conf":                           "\tsupersede dhcp-server-identifier 255.255.255.255;\n",
	"/etc/network/interfaces.d/eth1.cfg": `# This file is generated
# See ubuntu-ec2net for source
auto eth1
iface eth1 inet dhcp
    metric 10001
    post-up ip route add 10.0.0.0/24 dev eth1 table 10001
    post-up ip route add default via 10.0.0.1 dev eth1 table 10001
    post-up ip rule add from 10.0.0.20 lookup 10001
    post-up ip rule add fwmark 0x10001 lookup 10001
    post-up iptables -t mangle -A PREROUTING -i eth1 -j MARK --set-xmark 0x10001
    post-up iptables -t mangle -A PREROUTING -i eth1 -j CONNMARK --save-mark
    post-up echo 2 >/proc/sys/net/ipv4/conf/eth1/rp_filter
`,
}

// netUtils1 has the installed files of ec2-net-utils 1.x, on Debian.
var netUtils1 = map[string]string{
	"/etc/udev/rules.d/53-ec2-network-interfaces.rules":   strings.ReplaceAll(oldRule, "%s", "/etc/sysconfig/network-scripts/ec2net.hotplug"),
	"/etc/udev/rules.d/75-persistent-net-generator.rules": oldGenerator,
	"/etc/sysconfig/network-scripts/ec2net.hotplug":       old,
	"/etc/sysconfig/network-scripts/ec2net-functions":     old,
	"/etc/dhcp/dhclient.d/ec2dhcp.sh":                     old,
	"/etc/dhcp/dhclient-exit-hooks.d/ec2dhcp.sh":          old,
	"/usr/sbin/ec2ifup":                                   old,
	"/usr/sbin/ec2ifdown":                                 old,
	"/usr/sbin/ec2ifscan":                                 old,
	"/usr/lib/systemd/system/ec2net-scan.service":         oldUnit,
	"/usr/lib/systemd/system/ec2net-ifup@.service":        oldUnit,
}

// netUtils2 has the files of amazon-ec2-net-utils 2.x that its own "make install" installs. It
// begins to look every minute; here it does so all the time. The unit's last section is an
// administrator's.
var netUtils2 = map[string]string{
	"/usr/lib/udev/rules.d/99-vpc-policy-routes.rules": `SUBSYSTEM=="net", ACTION=="add", KERNEL=="eth*", RUN+="/usr/bin/systemctl start --no-block policy-routes@$name.service refresh-policy-routes@$name.timer"` + "\n",
	"/usr/lib/systemd/system/policy-routes@.service": `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/bin/setup-policy-routes %i start
[Install]
WantedBy=multi-user.target
`,
	"/usr/lib/systemd/system/refresh-policy-routes@.service": "[Service]\nType=oneshot\nExecStart=/usr/local/bin/setup-policy-routes %i start\n",
	"/usr/lib/systemd/system/refresh-policy-routes@.timer":   "[Timer]\nOnActiveSec=1\nOnUnitInactiveSec=1\n",
	"/usr/local/bin/setup-policy-routes":                     old,
}

// kept are files beside those of the older tools, which have to stay.
var kept = map[string]string{
	"/etc/udev/rules.d/70-persistent-net.rules":        "# names of interfaces\n",
	"/etc/dhcp/dhclient-eth5.conf":                     "send host-name \"five\";\nsupersede dhcp-server-identifier 255.255.255.255;\n",
	"/etc/network/interfaces.d/eth7.cfg":               "# by ubuntu-ec2net, now mine\n# EC2SYNC=no\niface eth7 inet manual\n",
	"/etc/network/interfaces.d/eth8.cfg":               "iface eth8 inet manual\n",
	"/etc/sysconfig/network-scripts/route-eth1":        "default via 10.0.0.1\n",
	"/etc/dhcp/dhclient-exit-hooks.d/zz-administrator": ":\n",
}

// The package takes over from an older tool: interfaces stay up, from the next boot on
// they are ec2net's, and nothing of the older tool runs again. A person can put the
// files that were moved aside back.
func TestMigration(t *testing.T) {
	t.Parallel()
	debs := packages(t)
	for _, c := range []struct {
		name, release string
		files         map[string]string
		enable        string
	}{
		{"ubuntu-ec2net", "bookworm", ubuntuEC2Net, "elastic-network-interfaces.service"},
		{"ec2-net-utils", "trixie", netUtils1, "ec2net-scan.service"},
		{"amazon-ec2-net-utils", "trixie", netUtils2, "policy-routes@eth1.service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all := maps.Clone(files)
			maps.Copy(all, c.files)
			maps.Copy(all, kept)
			v := lab.NewVPC(t, lab.Plan{})
			eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
			eth1.Attach(t, "eth1")
			i := v.Boot(t, lab.Setup{Release: c.release, Systemd: true, Install: debs, Files: all,
				Prepare: "systemctl -q enable " + c.enable})
			i.WaitRunning(t)
			if _, ran := i.ReadFile(t, "/var/local/old-tool-ran"); !ran {
				t.Fatal("the older tool does not run")
			}
			before := i.Sh(t, listing)
			up := running(t, i)
			_, configured := c.files["/etc/network/interfaces.d/eth1.cfg"]
			if configured && !strings.Contains(up, "lookup 10001") {
				t.Fatalf("the older tool's rules are not there:\n%s", up)
			}

			i.Sh(t, "dpkg -i /root/ec2net_1.0_amd64.deb; if systemctl is-active --quiet 'refresh-policy-routes@*.timer'; then exit 1; fi; rm /var/local/old-tool-ran")
			sameState(t, "installed", up, running(t, i))
			noneFailed(t, i)
			i.Echo(t, 7)
			if configured {
				// Its DHCP client goes on, with ec2net's hook.
				i.Sh(t, `interface=eth1 reason=RENEW new_ip_address=10.0.0.20 sh -c 'for hook in $(run-parts --list /etc/dhcp/dhclient-exit-hooks.d); do . $hook; done'`)
				answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20")
			}

			i.Reboot(t)
			i.Echo(t, 7)
			i.WaitRunning(t)
			waitUp(t, i, "eth1")
			v.ResetCounters(t)
			answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
			lacks(t, i.State(t), "10001", "0x10001")
			oneClient(t, i, "eth1")
			noneFailed(t, i)
			i.Sh(t, "ec2ifdown eth1; ec2ifup eth1; ec2ifupscan")
			if ran, ok := i.ReadFile(t, "/var/local/old-tool-ran"); ok {
				t.Errorf("the older tool still runs: %s", ran)
			}
			for _, name := range slices.Sorted(maps.Keys(kept)) {
				if text, _ := i.ReadFile(t, name); text != kept[name] {
					t.Errorf("%s is now %q", name, text)
				}
			}

			// Purged while the ENI is up, and all put back.
			up = running(t, i)
			i.Sh(t, "dpkg -P ec2net; cp -a /var/backups/ec2net/. /; rm -r /var/backups/ec2net; echo >/var/local/old-tool-ran")
			sameState(t, "purged", strings.Replace(up, "/usr/sbin/ec2net watch\n", "", 1), running(t, i))
			sameState(t, "put back", before, i.Sh(t, listing))
			i.Sh(t, "rm /var/local/old-tool-ran")
			i.Reboot(t)
			i.WaitRunning(t)
			if _, ran := i.ReadFile(t, "/var/local/old-tool-ran"); !ran {
				t.Error("put back, the older tool does not run")
			}
		})
	}
}

// In a throwaway root: the files that were moved aside, when the package cannot be
// unpacked, and when it is installed again after the older tool was.
func TestMigrationFiles(t *testing.T) {
	t.Parallel()
	debs := packages(t)
	const prepare = `
older() { for name in NAMES; do echo "$name $(md5sum <$name)"; done; }
gone() { for name in NAMES; do if cmp -s $name /var/backups/ec2net$name; then return 1; fi; done; }
install() { dpkg -i /root/ec2net.deb; }
systemctl -q enable UNIT; older >/tmp/before
`
	const enabled = "test enabled = $(systemctl is-enabled UNIT)\n"
	for _, older := range []struct {
		name       string
		files      map[string]string
		unit, rule string
	}{
		{"ubuntu-ec2net", ubuntuEC2Net, "elastic-network-interfaces.service", "/etc/udev/rules.d/53-ec2-network-interfaces.rules"},
		{"ec2-net-utils", netUtils1, "ec2net-scan.service", "/etc/udev/rules.d/53-ec2-network-interfaces.rules"},
		{"amazon-ec2-net-utils", netUtils2, "policy-routes@eth1.service", "/usr/lib/udev/rules.d/99-vpc-policy-routes.rules"},
	} {
		for _, c := range []struct{ name, script string }{
			{"cannot be unpacked", `
mkdir -p /tmp/owner/DEBIAN /tmp/owner/usr/share/zsh/vendor-completions; touch /tmp/owner/usr/share/zsh/vendor-completions/_ec2net
printf 'Package: owner\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y.example>\nDescription: x\n' >/tmp/owner/DEBIAN/control
dpkg-deb --build /tmp/owner /tmp/owner.deb; dpkg -i /tmp/owner.deb
if install; then exit 1; fi
older | diff /tmp/before -; test -z "$(ls -d /var/backups/ec2net*)"
` + enabled + `
dpkg -P owner; install; gone; test ec2net = "$(ls /var/backups)"`},
			{"put back and installed again", `
install; gone; dpkg -r ec2net; cp -a /var/backups/ec2net/. /; older | diff /tmp/before -
install; gone; test enabled = "$(systemctl is-enabled ec2net-scan.service)"; test ! -e /var/backups/ec2net.1
dpkg -P ec2net; cp -a /var/backups/ec2net/. /; older | diff /tmp/before -
` + enabled},
			{"changed and installed again", `
rule=RULE
install; dpkg -r ec2net; echo '# another' >$rule
install | grep "^ec2net: the earlier backup .* is now /var/backups/ec2net.1$rule"
test '# another' = "$(cat /var/backups/ec2net$rule)"; grep -q ACTION /var/backups/ec2net.1$rule`},
		} {
			t.Run(older.name+", "+c.name, func(t *testing.T) {
				all := maps.Clone(older.files)
				all["/root/ec2net.deb"] = string(read(t, debs, "root/ec2net_1.0_amd64.deb"))
				names := strings.Join(slices.Sorted(maps.Keys(older.files)), " ")
				script := strings.NewReplacer("NAMES", names, "UNIT", older.unit, "RULE", older.rule).Replace(prepare + c.script)
				r := lab.Debian(t, "bookworm").Run(t, lab.Cmd{Files: all, Args: []string{"sh", "-exc", script}})
				if r.Status != 0 {
					t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
				}
			})
		}
	}
}
