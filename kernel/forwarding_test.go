package kernel

import (
	"os"
	"testing"

	"ec2net/lab/unshared"
)

// The kernel says whether the machine forwards packets, from one interface at least.
func TestForwarding(t *testing.T) {
	unshared.Netns(t)
	k, err := Open()
	check(t, err)
	defer k.Close()
	set := func(name, value string) {
		t.Helper()
		check(t, os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0))
	}
	for _, c := range []struct {
		name, value string
		want        bool
	}{{"ip_forward", "0", false}, {"conf/lo/forwarding", "1", true}, {"conf/lo/forwarding", "0", false},
		{"conf/default/forwarding", "1", false}, {"ip_forward", "1", true}} {
		set(c.name, c.value)
		look, err := k.Look(nil)
		check(t, err)
		if on, byLinks := k.Forwards(), look.Forwards(); on != c.want || byLinks != c.want {
			t.Errorf("%s=%s: forwards %v, by the links %v", c.name, c.value, on, byLinks)
		}
	}
}
