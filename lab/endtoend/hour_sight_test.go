package endtoend

import (
	"fmt"
	"slices"
	"strings"

	"ec2net/lab"
)

// sight is what the script of look has seen of the machine: its lines, by part, and which
// interfaces are up.
type sight struct {
	parts map[string][]string
	up    map[string]bool
}

// hourParts are the scripts of a sight, by name.
var hourParts = []struct{ name, script string }{
	{"links", "ip -o link"},
	{"addresses", "ip -o -4 addr"},
	{"rules", "ip -4 rule"},
	{"routes", "ip -4 route show table all"},
	{"way out", "ip -4 route get 203.0.113.9"},
	{"marks", "iptables-save -t mangle"},
	{"marks of nft", "iptables-nft-save"},
	{"marks of legacy", "iptables-legacy-save"},
	{"run", "ls -A /run/ec2net"},
	{"state", "ls -A /var/lib/ec2net /etc/network/interfaces.d /etc/systemd/network 2>/dev/null"},
	{"ifstate", "cat /run/network/ifstate 2>/dev/null"},
	{"processes", `ps -e -o sid=,stat=,comm=,args= | awk -v me=$$ '$1 != me && $2 !~ "^Z" { $1 = $2 = ""; print substr($0, 3) }'`},
	{"jobs", "systemctl list-jobs --no-legend --plain"},
	{"busy", "systemctl list-units --all --no-legend --plain --state=activating,deactivating,reloading 'ec2net*' 'networking*' 'ifup*' 'systemd-networkd*'"},
	// The password units need inotify(7), of which all machines of a host share the instances.
	{"failed", "systemctl --failed --no-legend --plain | grep -v ask-password"},
	{"locks", "for f in /run/ec2net/*.lock; do test $f = /run/ec2net/watch.lock || flock -n $f true || echo $f; done"},
	{"status", "ec2net status >/tmp/status 2>&1 || cat /tmp/status"},
	{"loose", "grep -H . /proc/sys/net/ipv4/conf/eth*/rp_filter"},
	{"watch", "systemctl is-active ec2net-watch.service"},
}

// look looks at the machine.
func (h *hour) look() sight {
	var script strings.Builder
	for _, p := range hourParts {
		fmt.Fprintf(&script, "echo '==> %s'\n{ %s\n} 2>&1\n", p.name, p.script)
	}
	out := h.i.Run(h.t, lab.Cmd{Args: []string{"sh", "-c", script.String()}}).Stdout
	s := sight{parts: make(map[string][]string), up: make(map[string]bool)}
	name := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if next, ok := strings.CutPrefix(line, "==> "); ok {
			name = next
		} else if line != "" {
			s.parts[name] = append(s.parts[name], line)
		}
	}
	for _, line := range s.parts["links"] {
		if f := strings.Fields(line); len(f) > 2 && strings.Contains(f[2], ",UP") {
			s.up[strings.TrimRight(strings.Split(f[1], "@")[0], ":")] = true
		}
	}
	return s
}

func (s sight) String() string {
	var b strings.Builder
	for _, p := range hourParts {
		fmt.Fprintf(&b, "==> %s\n%s\n", p.name, strings.Join(s.parts[p.name], "\n"))
	}
	return b.String()
}

// clients returns how many DHCP clients an interface has.
func (s sight) clients(name string) (n int) {
	for _, line := range s.parts["processes"] {
		if strings.HasPrefix(line, "dhclient ") && slices.Contains(strings.Fields(line), name) || strings.HasPrefix(line, "dhcpcd dhcpcd: "+name+" ") {
			n++
		}
	}
	return n
}
