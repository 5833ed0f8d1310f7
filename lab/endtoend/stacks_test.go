package endtoend

import (
	"testing"

	"ec2net/lab"
)

// A stack is what a test has to know of the network stack of its instance.
type stack struct {
	name string
	// setup is what an instance of it has beyond the test's own setup.
	setup lab.Setup
	// folder has the files by which interfaces come up; file is that of eth1.
	folder, file string
	// down and up are what a person types to take eth1 down and bring it up, without ec2net if
	// the stack has a command of its own. again is for up while it is up already.
	down, up, again string
	// primary is a command that configures the primary anew.
	primary string
	// flap is a script that sets eth1 down and up, and waits until its lease is back.
	flap string
	// renew is the command that asks IMDS for an ENI between its coming and going: the hook
	// of its DHCP client, at a renewal. Systemd-networkd has none.
	renew func(name, addr string) string
	// hold is a script. What brings an ENI up after it makes /run/in, and waits for /run/go.
	hold string
	// fail is a script. What brings an ENI up after it fails when it has begun, until failNot.
	fail, failNot string
	// service is the network's unit, and network the one at which the boot waits for it.
	service, network string
	// program brings interfaces up; without says what the log says without it.
	program, without string
	// matrix and killed are the sections of docs/reliability.md with what TestFaults and
	// TestKilled find.
	matrix, killed string
	// backends are those of iptables for a test that goes by each: which one it is, is the
	// same for all stacks.
	backends []string
}

const holds = "touch /run/in; timeout 90 sh -c 'until test -e /run/go; do sleep 0.1; done'"

var ifupdown = stack{
	name:    "ifupdown",
	folder:  "/etc/network/interfaces.d",
	file:    "/etc/network/interfaces.d/eth1.cfg",
	down:    "ifdown eth1",
	up:      "ifup eth1",
	again:   "ifup eth1",
	primary: "ifdown eth0; ifup eth0",
	flap:    "ip link set eth1 down; ip link set eth1 up",
	renew: func(name, addr string) string {
		return "interface=" + name + " reason=RENEW new_ip_address=" + addr + " /usr/sbin/ec2net lease"
	},
	hold: `cat >/etc/ec2net/templates/blocks.tmpl <<'EOF'
{{define "cfg-post-up"}}
    post-up ` + holds + `
{{end}}
EOF`,
	fail:     `printf '{{define "cfg-post-up"}}\n    post-up false\n{{end}}' >/etc/ec2net/templates/blocks.tmpl`,
	failNot:  "rm /etc/ec2net/templates/blocks.tmpl\n",
	service:  "networking.service",
	network:  "networking.service",
	program:  "/usr/sbin/ifup",
	without:  "eth2: ifup eth2: there is no ifup: is ifupdown installed?",
	matrix:   "matrix",
	killed:   "killed",
	backends: []string{"nft", "legacy"},
}

// imageStack is what Debian's image for EC2 has. Cloud-init plays no part in what these
// tests are about, so it has done its work already.
var imageStack = stack{
	name:    "networkd",
	setup:   lab.Setup{Image: true, Rendered: true},
	folder:  "/etc/systemd/network",
	file:    "/etc/systemd/network/05-ec2net-eth1.network",
	down:    "ec2ifdown eth1",
	up:      "ec2ifup eth1",
	again:   "networkctl reload; networkctl up eth1",
	primary: "networkctl reconfigure eth0",
	flap:    "ip link set eth1 down; while ip -4 addr show dev eth1 | grep -q dynamic; do sleep 0.05; done; ip link set eth1 up" + configuredENI,
	renew:   func(name, _ string) string { return "/usr/sbin/ec2net refresh " + name },
	hold: inPlace + holds + `
exec networkctl.real "$@"
EOF
`,
	fail: inPlace + `:
networkctl.real "$@"
exit 1
EOF
`,
	failNot:  "mv /usr/bin/networkctl.real /usr/bin/networkctl\n",
	service:  "systemd-networkd.service",
	network:  "systemd-networkd-wait-online.service",
	program:  "/usr/bin/networkctl",
	without:  "eth2: networkctl reload: ",
	matrix:   "matrix of networkd",
	killed:   "killed with networkd",
	backends: []string{"nft"},
}

// inPlace begins a script in the place of networkctl.
const inPlace = `mv /usr/bin/networkctl /usr/bin/networkctl.real
install -m 755 /dev/stdin /usr/bin/networkctl <<'EOF'
#!/bin/sh
`

var stacks = []stack{ifupdown, imageStack}

// onStacks runs a test on each network stack.
func onStacks(t *testing.T, test func(*testing.T, stack)) {
	t.Helper()
	t.Parallel()
	for _, s := range stacks {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// boot is the function of that name, with the stack. On both ec2net knows of the primary when
// it returns.
func (s stack) boot(t *testing.T, v *lab.VPC, setup lab.Setup) *lab.Instance {
	t.Helper()
	setup = s.with(setup)
	i := boot(t, v, setup)
	if setup.Image {
		i.WaitRunning(t)
		i.WaitSh(t, "ip -4 route show default | grep -q 'dev eth0 proto dhcp'")
		// As the hook of dhclient asks about the primary. A firewall that starts meanwhile may
		// cut the connection to IMDS.
		i.WaitSh(t, "ec2net refresh")
	}
	return i
}

// with is a setup with that of the stack.
func (s stack) with(setup lab.Setup) lab.Setup {
	setup.Image, setup.Rendered = s.setup.Image, s.setup.Rendered
	return setup
}

// sameAgain is sameState for an interface that was down: systemd-networkd keeps the addresses
// of ec2net's meanwhile, so the leased one stands behind them.
func (s stack) sameAgain(t *testing.T, what, want, got string) {
	t.Helper()
	if !s.setup.Image || sorted(want) != sorted(got) {
		sameState(t, what, want, got)
	}
}
