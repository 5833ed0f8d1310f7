package endtoend

import (
	"strconv"
	"strings"
	"testing"

	"ec2net/lab"
)

// Two programs undo what watch does, whenever it does it: somebody reconfigures
// systemd-networkd, which takes rules, or on the image the primary's other addresses, or
// reloads firewalld, again and again. Watch gives up after a bounded
// number of times, says so in one warning, and tries again later.
func TestTwoMasters(t *testing.T) { onStacks(t, testTwoMasters) }

func testTwoMasters(t *testing.T, s stack) {
	c := struct{ prepare, whole, made string }{networkd, "ip rule | grep -q 'from 10.0.1.20 lookup 1001'", "ip rule add pref 1001 from 10.0.1.20 .*(watch)"}
	if s.setup.Image {
		c = struct{ prepare, whole, made string }{"", "ip addr show dev eth0 | grep -qF 10.0.0.11/32", "ip addr add 10.0.0.11/32 dev eth0 (watch)"}
	}
	v := lab.NewVPC(t, lab.Plan{Primary: []string{"10.0.0.10", "10.0.0.11"}})
	eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	i := s.boot(t, v, lab.Setup{Docker: true, Systemd: true,
		Prepare: c.prepare + "systemctl -q enable firewalld.service ec2net-scan.service ec2net-watch.service; echo EC2NET_REFRESH=0 >>/etc/default/ec2net"})
	i.WaitRunning(t)
	i.Sh(t, "firewall-cmd --set-default-zone=trusted; sysctl -q net.ipv4.ip_forward=1")
	eth1.Attach(t, "eth1")
	waitUp(t, i, "eth1")
	const mark = "iptables-save -t mangle | grep -q -e '-i eth1 -j ec2net-eth1'"
	settle := c.whole + " && " + mark
	i.WaitSh(t, "test inactive = $(systemctl is-active ec2net-hotplug@eth1.service) && "+settle)
	logged := func(text, priority string) int {
		t.Helper()
		n, err := strconv.Atoi(strings.TrimSpace(i.Sh(t, "journalctl --boot --identifier=ec2net --priority="+priority+" --no-pager --output=cat | grep -c -e '"+text+"' || true")))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, master := range []struct{ undo, whole, made, warning string }{
		{"networkctl reconfigure eth0" + configured, c.whole, c.made, "another program undoes "},
		{"firewall-cmd --reload", mark, "eth1: marks were missing: restored them", "another program removes the marks "},
	} {
		before := logged(master.made, "info")
		i.Sh(t, `
warned() { journalctl --boot --identifier=ec2net --priority=warning --no-pager | grep -q '`+master.warning+`'; }
n=0
until warned; do
	n=$((n + 1)); test $n -lt 100
	`+master.undo+`
	until warned || `+master.whole+`; do sleep 0.05; done
done`)
		// Now watch leaves what this undoes once more.
		i.Sh(t, master.undo)
		if n := logged(master.made, "info") - before; n > 40 {
			t.Errorf("%s: made %d times", master.undo, n)
		} else {
			t.Logf("%s: made %d times", master.undo, n)
		}
		if n := logged(master.warning, "warning"); n != 1 {
			t.Errorf("%s: %d warnings\n%s", master.undo, n, i.Sh(t, "journalctl --boot --identifier=ec2net --priority=warning --no-pager"))
		}
	}
	if i.Run(t, lab.Cmd{Args: []string{"sh", "-c", settle}}).Status == 0 {
		t.Error("nothing is left to the others")
	}
	i.WaitSh(t, settle) // a minute later
	v.ResetCounters(t)  // the DHCP server's offers are for no address of the machine yet
	answers(t, v, []*lab.Place{v.Client}, "10.0.0.10", "10.0.1.20", "10.0.1.21")
	noneFailed(t, i)
}
