package endtoend

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"ec2net/lab"
	"ec2net/lab/imds"
	"ec2net/lab/report"
)

// attack is a row of the table: what an attacker does, and the result at each way into
// ec2net.
type attack struct {
	name string
	// prepare runs as root, before: most often a mistake of an administrator that
	// gives the attacker something. The user has the number 1000.
	prepare string
	// env has the attacker's variables in root's environment.
	env string
	// command is what is called.
	command string
	status  int
	says    string
}

// evil is a program that every attack tries to make root run, and a template that it
// tries to make root render.
const evil = `
mkdir -p /home/mallory/bin && cd /home/mallory/bin
for name in ifup ifdown ip iptables iptables-restore systemctl logger sh dash env run-parts; do
	printf '#!/bin/dash\necho %s $* >>/tmp/owned\n' $name >$name
	chmod 755 $name
done
printf '#!/bin/dash\n: >/tmp/owned\n' >rc
echo '{{define "cfg-post-up"}}
    post-up touch /tmp/owned
{{end}}' >blocks.tmpl
chown -R 1000:1000 /home/mallory
echo secret >/etc/secret
chmod 600 /etc/secret
printf '#!/bin/dash\n/usr/bin/env >/tmp/env\nexec /usr/sbin/ifup "$@"\n' >/usr/local/sbin/ifup
chmod 755 /usr/local/sbin/ifup
`

// gotIn prints what an attacker has achieved, if anything.
const gotIn = `
cat /tmp/owned 2>/dev/null || :
test secret = "$(cat /etc/secret)" || echo another secret
grep -rl -e secret -e /tmp/owned /etc/network /var/lib/ec2net /run/ec2net 2>/dev/null | xargs -r ls -l | grep -v -e '->' || :
grep -v -e '^PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin$' -e ^PWD= /tmp/env 2>/dev/null || :`

const (
	addThird = "INTERFACE=eth2 ACTION=add /etc/network/ec2net.hotplug"
	asUser   = "setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all env "
	theirs   = "PATH=/home/mallory/bin:$PATH IFS=/ LD_PRELOAD=/home/mallory/evil.so ENV=/home/mallory/bin/rc BASH_ENV=/home/mallory/bin/rc " +
		"GODEBUG=http2debug=2 TMPDIR=/home/mallory HOME=/home/mallory XDG_CONFIG_HOME=/home/mallory NOTIFY_SOCKET=/home/mallory/s " +
		"http_proxy=http://198.51.100.7:3128 HTTP_PROXY=http://198.51.100.7:3128 ALL_PROXY=socks5://198.51.100.7:1080 " +
		"AWS_PROFILE=evil AWS_CONFIG_FILE=/home/mallory/aws AWS_EC2_METADATA_DISABLED=true AWS_ENDPOINT_URL=http://198.51.100.7 AWS_CA_BUNDLE=/etc/secret "
)

var attacks = []attack{
	{"environment of hotplug: PATH, IFS, LD_PRELOAD, ENV, proxies, AWS_*", "", theirs, addThird, 0, ""},
	{"the same, of the hook", "", theirs + "INTERFACE=eth0 ", commands[renew], 0, ""},
	{"the same, of ec2net scan", "", theirs + "INTERFACE=eth0 ACTION=remove ", commands[scan], 0, ""},
	{"the same, of render", "", theirs, "/usr/sbin/ec2net render eth1 >/dev/null", 0, ""},
	{"names: ../x", "", "", `INTERFACE=../x ACTION=add /etc/network/ec2net.hotplug`, 2, "not an ENI's name"},
	{"names: a shell's text", "", "", `INTERFACE='eth1;id' ACTION=add /etc/network/ec2net.hotplug`, 2, "not an ENI's name"},
	{"names: two lines", "", "", "INTERFACE='eth1\nup id' ACTION=add /etc/network/ec2net.hotplug", 2, "not an ENI's name"},
	{"names: an option", "", "", `INTERFACE=--help ACTION=add /etc/network/ec2net.hotplug`, 2, "not an ENI's name"},
	{"names: of the hook", "", "", `interface='$(id)' reason=BOUND new_ip_address=10.0.0.20 /usr/sbin/ec2net lease`, 0, ""},
	{"addresses: of the hook", "", "", `interface=eth1 reason=BOUND new_ip_address='10.0.0.20 lookup main' /usr/sbin/ec2net lease`, 2, "is not an IPv4 address"},

	{"a user owns the templates' parent", "cp /home/mallory/bin/blocks.tmpl /etc/ec2net/templates; chown 1000 /etc/ec2net", "", addThird, 4, "/etc/ec2net belongs to"},
	{"a user owns the templates", "mkdir -p /etc/ec2net/templates; cp /home/mallory/bin/blocks.tmpl /etc/ec2net/templates; chown -R 1000 /etc/ec2net/templates", "", addThird, 4, "belongs to"},
	{"anybody may write a template", "mkdir -p /etc/ec2net/templates; cp /home/mallory/bin/blocks.tmpl /etc/ec2net/templates; chmod 666 /etc/ec2net/templates/blocks.tmpl", "", addThird, 4, "can be written"},
	{"the templates are a link to a user's", "rmdir /etc/ec2net/templates; ln -s /home/mallory/bin /etc/ec2net/templates", "", addThird, 4, "/home/mallory"},
	{"a template is a link to a secret", "mkdir -p /etc/ec2net/templates; ln -s /etc/secret /etc/ec2net/templates/blocks.tmpl", "", asUser + "ec2net render eth1 --facts /tmp/facts.json", 4, "permission denied"},
	{"a user owns the settings", "echo EC2NET_TEMPLATES=/home/mallory/bin >/etc/default/ec2net; chown 1000 /etc/default/ec2net", "", addThird, 0, "belongs to"},
	{"a user owns the state folder, and has links in it", "chown 1000 /var/lib/ec2net; ln -s /etc/secret /var/lib/ec2net/eth2.json; ln -s /etc/secret /var/lib/ec2net/eth2.rules", "", addThird, 5, "/var/lib/ec2net belongs to"},
	{"a user owns the folder of the locks, and has links in it", "chown 1000 /run/ec2net; ln -sf /etc/secret /run/ec2net/eth2.lock; ln -sf /etc/secret /run/ec2net/eth2.up", "", addThird, 5, "/run/ec2net belongs to"},
	{"a user has links in /tmp", "for n in ec2net ec2net.lock eth2.cfg eth2.rules .eth2.cfg; do ln -s /etc/secret /tmp/$n; done", "", addThird, 0, ""},

	{"as a user: hotplug", "", "", asUser + addThird, 5, "ec2net hotplug needs root"},
	{"as a user: the hook", "", "", asUser + commands[renew], 5, "ec2net lease needs root"},
	{"as a user: the hook takes the rules", "", "", asUser + "interface=eth1 reason=RELEASE /usr/sbin/ec2net lease", 5, "ec2net lease needs root"},
	{"as a user: down", "", "", asUser + "ec2net down eth1", 5, "ec2net down needs root"},
	{"as a user: docker down", "", "", asUser + "ec2net docker down", 5, "ec2net docker needs root"},
}

// TestAttackers: ec2net neither runs nor follows nor prints nor writes anything of a
// user's, and eth1 goes on working.
func TestAttackers(t *testing.T) {
	t.Parallel()
	found := make([]string, len(attacks)+len(places))
	t.Run("all", func(t *testing.T) {
		for n, a := range attacks {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				found[n] = a.test(t)
			})
		}
		for n, p := range places {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				found[len(attacks)+n] = p.falseIMDS(t)
			})
		}
	})
	if t.Failed() || slices.Contains(found, "") {
		return // or only some were asked for
	}
	table := "| who has what | comes to |\n| --- | --- |\n" + strings.Join(found, "")
	report.Section(t, "../../docs/reliability.md", "attackers", table)
}

func (a attack) test(t *testing.T) string {
	i := newFaulty(t, ifupdown)
	i.Sh(t, "ec2net facts eth1"+patient+" >/tmp/facts.json")
	i.Sh(t, evil)
	if a.prepare != "" {
		i.Sh(t, a.prepare)
	}
	said := len(i.Log(t))
	r := i.Run(t, lab.Cmd{Args: []string{"sh", "-c", "env " + a.env + a.command}})
	all := r.Stdout + r.Stderr + i.Log(t)[said:]
	if r.Status != a.status || !strings.Contains(all, a.says) {
		t.Errorf("status %d, want %d and %q:\n%s", r.Status, a.status, a.says, all)
	}
	for _, word := range []string{"secret\n", "LD_PRELOAD"} {
		if strings.Contains(all, word) {
			t.Errorf("there is %q in:\n%s", word, all)
		}
	}
	if out := i.Sh(t, gotIn); out != "" {
		t.Errorf("they got in:\n%s", out)
	}
	i.vpc.ResetCounters(t)
	answers(t, i.vpc, []*lab.Place{i.vpc.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
	if r.Status == 0 {
		return fmt.Sprintf("| %s | nothing of it counts |\n", a.name)
	}
	return fmt.Sprintf("| %s | status %d, \"%s\" |\n", a.name, r.Status, a.says)
}

// place is where a container can have IMDS's address.
type place struct{ name, way, script string }

var places = []place{
	{"a container's network has IMDS's address, and the container answers", "br9", `ip addr flush dev c9; ip link add br9 type bridge; ip link set br9 up
ip link set c9 master br9; ip link set c9 up; ip addr add 169.254.169.1/24 dev br9`},
	{"the same, on a veth without a bridge", "c9", ""},
}

// A container that answers in the place of IMDS, well-formed and with lines for root to
// write, can at most make ec2net refuse.
func (p place) falseIMDS(t *testing.T) string {
	i := newFaulty(t, ifupdown)
	touchTables(t, i.Instance)

	container := i.Beyond(t, "c9", "169.254.169.1/24", "169.254.169.254/24")
	i.Sh(t, p.script)
	var asked sync.Map
	var l net.Listener
	err := container.Do(func() (err error) {
		l, err = net.Listen("tcp", "169.254.169.254:80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := imds.New(imds.ENI{})
	t.Cleanup(func() { server.Close() })
	go server.Serve(counting{l, &asked})
	if out := i.Sh(t, "curl -s -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"); out == "" {
		t.Fatal("the container does not answer")
	}
	asked.Clear()
	i.Sh(t, "udevadm settle")
	i.WaitSh(t, "grep -qx up /sys/class/net/"+p.way+"/operstate")
	before := i.State(t)
	for command, status := range map[string]int{
		addThird: 3, commands[renew]: 0, commands[bound]: 0, commands[scan]: 0,
		"ec2net facts eth2": 3, "ec2net render eth2": 3, "ec2net render eth1 --root /tmp/out": 0,
	} {
		said := len(i.Log(t))
		r := i.Run(t, lab.Cmd{Args: []string{"sh", "-c", "env " + command}})
		if r.Status != status {
			t.Errorf("%s: status %d, want %d:\n%s", command, r.Status, status, r.Stderr)
		}
		i.WaitFor(t, "a line about "+command, func() bool {
			return strings.Contains(r.Stderr+i.Log(t)[said:], "what answers at 169.254.169.254 is not IMDS: the route there leads by "+p.way)
		})
	}
	asked.Range(func(_, from any) bool {
		t.Errorf("the container was asked, from %v", from)
		return true
	})
	sameState(t, "with a false IMDS", before, i.State(t))
	return fmt.Sprintf("| %s | \"is not IMDS\" at every way in; what is known serves |\n", p.name)
}

// counting notes who connects.
type counting struct {
	net.Listener
	asked *sync.Map
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.asked.Store(conn, conn.RemoteAddr())
	}
	return conn, err
}
