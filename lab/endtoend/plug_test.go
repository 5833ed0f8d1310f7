package endtoend

import (
	"fmt"
	"testing"

	"ec2net/lab"
)

// From udev's "add" to an answer by eth1, with no hand on it; and away again.
func TestPlug(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1 := v.AddENI(t, "10.0.0.20", "10.0.0.21")
	i := boot(t, v, lab.Setup{})
	neighbour := v.Host(t, "10.0.0.99")
	touchTables(t, i)
	before := i.State(t)
	first := ""
	for n := range 5 {
		eth1.Attach(t, "eth1")
		waitUp(t, i, "eth1")
		answers(t, v, []*lab.Place{v.Client, neighbour}, "10.0.0.10", "10.0.0.20", "10.0.0.21")
		if c := eth1.Counters(t); c.Sent == 0 {
			t.Errorf("nothing left by eth1: %+v", c)
		}
		state := i.State(t)
		if first == "" {
			first = state
		}
		sameState(t, fmt.Sprintf("plugged in, round %d", n), first, state)
		eth1.Detach(t)
		i.WaitFor(t, "nothing of eth1", func() bool {
			_, up := i.ReadFile(t, "/run/ec2net/eth1.up")
			return !up
		})
		sameState(t, fmt.Sprintf("unplugged, round %d", n), before, i.State(t))
		if _, ok := i.ReadFile(t, "/etc/network/interfaces.d/eth1.cfg"); !ok {
			t.Error("the cfg is gone")
		}
	}
}
