package endtoend

import (
	"strings"
	"testing"

	"ec2net/lab"
)

// A DHCP client in another network namespace runs the same hook, about an eth1 of its own.
// ec2net changes nothing in that namespace, in the machine's, or on disk, and says so,
// whether the client shares the machine's processes or not.
func TestHookOfContainer(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := boot(t, v, lab.Setup{})
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	i.Sh(t, `ip netns add c
ip link add c0 type veth peer name eth1 netns c
ip link set c0 up
ip -n c link set lo up
ip -n c link set eth1 up
ip -n c addr add 192.168.7.20/24 dev eth1
cat >/tmp/event <<'END'
env reason=$1 interface=eth1 new_ip_address=192.168.7.20 old_ip_address=192.168.7.20 new_subnet_mask=255.255.255.0 /sbin/dhclient-script
ip rule
END`)
	const files = "cd /; for f in $(find run/ec2net var/lib/ec2net etc/network -type f | sort); do echo == $f; cat $f; done"
	state, before := i.State(t), i.Sh(t, files)
	for name, in := range map[string]string{
		"ip netns":  "ip netns exec c",
		"a network": "nsenter --net=/run/netns/c",
		"processes": "nsenter --net=/run/netns/c unshare --mount --pid --fork --mount-proc",
	} {
		for _, reason := range []string{"BOUND", "RENEW", "EXPIRE"} {
			if out := i.Sh(t, in+" sh /tmp/event "+reason); strings.Contains(out, "100") {
				t.Errorf("%s, %s: rules in the other namespace:\n%s", name, reason, out)
			}
			sameState(t, name+", "+reason, state, i.State(t))
			sameState(t, name+", "+reason+": files", before, i.Sh(t, files))
		}
	}
	for _, byHand := range []string{"ec2ifup eth1", "ec2net status"} {
		if out := i.Sh(t, "ip netns exec c "+byHand+" 2>&1 || echo status $?"); !strings.Contains(out, "another network namespace") || !strings.Contains(out, "status 6") {
			t.Errorf("%s:\n%s", byHand, out)
		}
	}
	const said = "eth1: this is another network namespace"
	if n := strings.Count(i.Log(t), said); n != 10 {
		t.Errorf("%d lines with %q:\n%s", n, said, i.Log(t))
	}
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
}
