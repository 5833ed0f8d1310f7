package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// ownRoute gives each ENI's table a route by an administrator's template.
const ownRoute = `mkdir -p /etc/ec2net/templates; cat >/etc/ec2net/templates/blocks.tmpl <<'END'
{{define "cfg-routes"}}
    post-up ip route replace 192.168.0.0/16 via 10.0.1.7 dev {{.Name}} table {{.Table}} || true
{{end}}
{{define "network-sections"}}

[Route]
Destination=192.168.0.0/16
Gateway=10.0.1.7
GatewayOnLink=yes
Table={{.Table}}
{{end}}
END
`

// stopsHalfWay is a hook of dhclient before ec2net's that waits until /run/go exists: ifup
// has made nothing but the address until then.
const stopsHalfWay = `cat >/etc/dhcp/dhclient-exit-hooks.d/a-stop <<'END'
if test "$reason" = BOUND && test "$interface" = eth1 && ! test -e /run/go; then touch /run/here; sleep 1000; fi
END
`

// made is a shell function that prints what the stanza and the hook make.
const made = `
made() {
	ip rule; ip route show table 1001 | sort; ip -o -4 addr show dev eth1 | awk '{ print $4 }' | sort
	cat /proc/sys/net/ipv4/conf/eth1/rp_filter; ip -o link show eth1 | grep -o 'group [^ ]*'
	iptables -t mangle -S | sort
}
`

// ec2net and ifup are killed before the stanza has made anything: whatever comes next
// finds what is missing, and makes it.
func TestHalfUp(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := boot(t, v, lab.Setup{Prepare: ownRoute + stopsHalfWay + "echo EC2NET_MARKS=yes >>/etc/default/ec2net"})
	i.Sh(t, "touch /run/go; sysctl -qw net.ipv4.conf.default.rp_filter=1")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	want := i.Sh(t, made+"made")
	for _, line := range []string{"unreachable default metric 65535", "192.168.0.0/16 via 10.0.1.7", "from 10.0.1.21", "\n2\n", "group 1000", "-i eth1 -j ec2net-eth1", "-A ec2net-docker "} {
		if !strings.Contains(want, line) {
			t.Errorf("no %q in\n%s", line, want)
		}
	}
	for _, next := range []struct{ name, script string }{
		{"another hotplug", "INTERFACE=eth1 /etc/network/ec2net.hotplug add"},
		{"ec2ifup", "ec2ifup eth1"},
		{"scan", "ec2ifupscan"},
		{"a renewal", "env reason=RENEW interface=eth1 new_ip_address=10.0.1.20 dash -c '. /etc/dhcp/dhclient-exit-hooks.d/ec2net'"},
		{"watch", "setsid ec2net watch >/dev/null 2>&1 & echo $! >/run/watch.pid"},
	} {
		i.Sh(t, `ec2ifdown eth1; rm -f /run/go /run/here; echo 1 >/proc/sys/net/ipv4/conf/eth1/rp_filter
INTERFACE=eth1 setsid /etc/network/ec2net.hotplug add >/dev/null 2>&1 &
until test -e /run/here; do sleep 0.05; done
pkill -KILL -x 'ec2.*'; pkill -KILL -x ifup; pkill -KILL -x dhclient-script; pkill -KILL -f 'sleep 100[0]'; touch /run/go`)
		if now := i.Sh(t, made+"made"); strings.Contains(now, "unreachable") {
			t.Errorf("%s: nothing is missing before it:\n%s", next.name, now)
		}
		i.Sh(t, next.script)
		i.Sh(t, made+`n=0; until test "$(made)" = '`+strings.TrimSpace(want)+`' || test $n = 100; do sleep 0.1; n=$((n + 1)); done`)
		sameState(t, next.name, want, i.Sh(t, made+"made"))
		if n := strings.TrimSpace(i.Sh(t, "pgrep -cx dhclient")); n != "2" { // of eth0 and eth1
			t.Errorf("%s: %s DHCP clients", next.name, n)
		}
	}
	v.ResetCounters(t)
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
	i.Sh(t, "kill $(cat /run/watch.pid)")
}
