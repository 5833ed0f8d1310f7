package endtoend

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

var (
	idle  = flag.Duration("idle", 5*time.Second, "how long TestWatchCost leaves watch alone")
	plugs = flag.Int("plugs", 5, "how many times TestWatchCost plugs an ENI in and out")
)

// watchCost is what the process of watch has used, and what it holds.
type watchCost struct {
	cpu         time.Duration
	wakeups     int // of all threads
	rss         int // kB
	descriptors int
}

// costOfWatch reads proc(5).
func costOfWatch(t *testing.T, i *lab.Instance) watchCost {
	t.Helper()
	var n [5]int
	out := i.Sh(t, `
pid=$(systemctl show --property=MainPID --value ec2net-watch)
awk '{ print $14 + $15 }' /proc/$pid/stat; getconf CLK_TCK
cat /proc/$pid/task/*/status | awk '/^voluntary_ctxt_switches/ { n += $2 } END { print n }'
awk '/^VmRSS/ { print $2 }' /proc/$pid/status
ls /proc/$pid/fd | wc -l`)
	if _, err := fmt.Sscan(out, &n[0], &n[1], &n[2], &n[3], &n[4]); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return watchCost{time.Duration(n[0]) * time.Second / time.Duration(n[1]), n[2], n[3], n[4]}
}

// Watch sleeps while nothing happens; it grows neither with time nor with events; and
// beside a router, whose routes come and go by the ten thousand, it keeps up.
func TestWatchCost(t *testing.T) {
	t.Parallel()
	v := lab.NewVPC(t, lab.Plan{})
	eth1, eth2 := v.AddENI(t, "10.0.1.20", "10.0.1.21"), v.AddENI(t, "10.0.1.30")
	i := boot(t, v, lab.Setup{Systemd: true, Prepare: "systemctl enable ec2net-scan.service ec2net-watch.service"})
	i.WaitRunning(t)
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	settled := "test inactive = $(systemctl is-active ec2net-hotplug@eth1.service) && systemctl is-active -q ec2net-watch"
	i.WaitSh(t, settled)
	plug := func() {
		eth2.Attach(t, "eth2")
		waitUp(t, i, "eth2")
		eth2.Detach(t)
		waitDown(t, i, "eth2")
	}
	plug()

	table := "| what happens | CPU of watch | wake-ups | memory after it (RSS) | descriptors |\n| --- | --- | --- | --- | --- |\n"
	measure := func(what string, do func()) (before, after watchCost) {
		before = costOfWatch(t, i)
		do()
		after = costOfWatch(t, i)
		table += fmt.Sprintf("| %s | %.2f s | %d | %.1f MB | %d |\n", what, (after.cpu - before.cpu).Seconds(), after.wakeups-before.wakeups, float64(after.rss)/1024, after.descriptors)
		if after.rss > 20<<10 {
			t.Errorf("%s: %d kB", what, after.rss)
		}
		return before, after
	}
	before, after := measure(fmt.Sprintf("nothing, for %v", *idle), func() { time.Sleep(*idle) })
	if cpu := after.cpu - before.cpu; cpu > *idle/100+100*time.Millisecond {
		t.Errorf("idle for %v: %v of CPU", *idle, cpu)
	}
	_, plugged := measure(fmt.Sprintf("an ENI is plugged in and out, %d times", *plugs), func() {
		for range *plugs {
			plug()
		}
	})
	if plugged.descriptors > after.descriptors+1 {
		t.Errorf("%d descriptors before, %d after", after.descriptors, plugged.descriptors)
	}
	measure("10,000 routes of a router come and go, 10 times", func() {
		i.Sh(t, `
ip link add router type veth peer name peer && ip link set router up && ip link set peer up && ip addr add 192.168.200.1/24 dev router
for a in $(seq 0 39); do for b in $(seq 0 249); do echo "route add 172.$((16 + a / 8)).$((a % 8 * 32 + b / 8)).$((b % 8 * 32))/27 via 192.168.200.2 table 500"; done; done >/tmp/add
sed 's/add/del/' /tmp/add >/tmp/del
for n in 1 2 3 4 5 6 7 8 9 10; do ip -batch /tmp/add; ip -batch /tmp/del; done`)
	})
	began := time.Now()
	i.Sh(t, "ip rule del from 10.0.1.21")
	i.WaitSh(t, "ip rule | grep -q 'from 10.0.1.21 lookup 1001'")
	t.Logf("a rule is there again after %v", time.Since(began))
	noneFailed(t, i)
	report.Update(t, "../../docs/performance.md", "watch", table)
}
