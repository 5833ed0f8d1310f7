package endtoend

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

// stream asks an address again and again until it ends, and remembers its longest silence.
type stream struct {
	addr    string
	mu      sync.Mutex
	last    time.Time // of an answer
	longest time.Duration
	asked   int
}

// streams begins to ask addresses from a place. The function that it returns ends that, and
// returns the longest silence of each.
func streams(t *testing.T, from *lab.Place, addrs ...string) func() map[string]time.Duration {
	t.Helper()
	from.Patience = 200 * time.Millisecond
	end := make(chan struct{})
	var all []*stream
	var running sync.WaitGroup
	for _, addr := range addrs {
		s := &stream{addr: addr, last: time.Now()}
		all = append(all, s)
		running.Go(func() { s.run(from, end) })
	}
	return func() map[string]time.Duration {
		close(end)
		running.Wait()
		from.Patience = 0
		silences := make(map[string]time.Duration)
		for _, s := range all {
			s.heard(time.Now())
			silences[s.addr] = s.longest
		}
		return silences
	}
}

func (s *stream) run(place *lab.Place, end <-chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if s.asked++; place.UDP(s.addr+":7") == nil {
			s.heard(time.Now())
		}
	}
}

func (s *stream) heard(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest, s.last = max(s.longest, now.Sub(s.last)), now
}

// keeper is a TCP connection that stays open.
type keeper struct {
	net.Conn
	addr string
}

// keep opens a TCP connection to each address.
func keep(t *testing.T, from *lab.Place, addrs ...string) []keeper {
	t.Helper()
	var all []keeper
	for _, addr := range addrs {
		conn, err := from.Dial("tcp", "", addr+":7")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		all = append(all, keeper{conn, addr})
	}
	return all
}

// stand fails if one of the connections does not answer any more.
func stand(t *testing.T, what string, all []keeper) {
	t.Helper()
	for _, k := range all {
		if _, err := lab.Ask(k.Conn); err != nil {
			t.Errorf("%s: the connection to %s: %v", what, k.addr, err)
		}
	}
}

// imageEvents happen on an instance as an administrator or the system causes them.
var imageEvents = []struct {
	name, script string
}{
	{name: "an address is assigned in EC2"},
	{name: "an address is taken away in EC2"},
	{name: "`ec2net refresh`", script: "ec2net refresh"},
	{name: "a lease of eth1 renewed", script: "networkctl renew eth1"},
	{name: "`netplan apply`", script: "netplan apply"},
	{name: "`networkctl reload`", script: "networkctl reload"},
	{name: "`networkctl reload`, and the primary's file has changed", script: "echo '# changed' >>/run/systemd/network/10-netplan-eth0.network; networkctl reload"},
	{name: "`networkctl reconfigure eth0`", script: "networkctl reconfigure eth0"},
	{name: "`networkctl reconfigure eth1`", script: "networkctl reconfigure eth1"},
	{name: "systemd-networkd restarted", script: "systemctl restart systemd-networkd"},
	{name: "systemd itself executed anew, as by an upgrade", script: "systemctl daemon-reexec; systemctl try-restart systemd-networkd"},
	{name: "systemd's package unpacked and configured again, as by an upgrade", script: reinstallSystemd},
	{name: "systemd-resolved restarted", script: "systemctl restart systemd-resolved"},
	{name: "cloud-init's hotplug, by hand", script: "cloud-init devel hotplug-hook -s net handle -d /sys/class/net/eth1 -u add || true"},
	{name: "all ip rules flushed", script: "ip rule flush protocol 236"},
	{name: "eth1's address deleted", script: "ip addr flush dev eth1"},
}

// reinstallSystemd makes systemd's package from what is installed, and installs it: Debian's own
// scripts of the package do what they do in an upgrade.
const reinstallSystemd = `
new=$(mktemp -d)
mkdir $new/DEBIAN
dpkg -L systemd | while read -r path; do
	if test -d "$path"; then mkdir -p "$new$path"; else printf '%s\n' "$path"; fi
done | xargs -d '\n' cp -a --parents -t $new
for file in conffiles preinst postinst prerm postrm triggers; do
	cp /var/lib/dpkg/info/systemd.$file $new/DEBIAN/$file
done
dpkg-query -s systemd | sed '/^Status:/d; /^Conffiles:/,/^[^ ]*:/ { /^Conffiles:/d; /^ /d }' >$new/DEBIAN/control
dpkg-deb -Znone -b $new /root/systemd.deb
before=$(systemctl show -p ActiveEnterTimestampMonotonic systemd-networkd)
dpkg -i /root/systemd.deb
test "$before" != "$(systemctl show -p ActiveEnterTimestampMonotonic systemd-networkd)"`

// quiet is a condition for a shell: networkd has configured both ENIs, and nothing of ec2net
// differs.
const imageQuiet = `test "$(networkctl --no-legend | grep -c 'eth[01].*configured')" = 2 && ec2net status >/dev/null`

// While something happens to the network of an instance with an ENI, both ENIs are asked all
// the time, and have an open connection each.
func TestImageEvents(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	cells := make(map[string]string)
	t.Run("releases", func(t *testing.T) {
		for _, release := range []string{"bookworm", "trixie"} {
			t.Run(release, func(t *testing.T) {
				t.Parallel()
				v := lab.NewVPC(t, lab.Plan{})
				eth1 := v.AddENI(t, "10.0.1.20", "10.0.1.21")
				i := boot(t, v, lab.Setup{Release: release, Image: true, Prepare: imageReady})
				i.WaitRunning(t)
				eth1.Attach(t, "eth1")
				waitUp(t, i, "eth1")
				all := []string{"10.0.0.10", "10.0.1.20", "10.0.1.21"}
				i.WaitSh(t, imageQuiet)
				answers(t, v, []*lab.Place{v.Client}, all...)
				open := keep(t, v.Client, all...)
				for _, e := range imageEvents {
					end := streams(t, v.Client, all...)
					switch e.script {
					case "":
						if strings.Contains(e.name, "assigned") {
							eth1.Assign(t, "10.0.1.22")
						} else {
							eth1.Unassign(t, "10.0.1.22")
						}
						i.Sh(t, "ec2net refresh eth1")
					default:
						i.Sh(t, e.script)
					}
					i.WaitSh(t, imageQuiet)
					silence := end()
					answer(t, []*lab.Place{v.Client}, all...)
					cell := fmt.Sprintf("%.1f s | %.1f s", silence["10.0.0.10"].Seconds(), max(silence["10.0.1.20"], silence["10.0.1.21"]).Seconds())
					mu.Lock()
					cells[release+e.name] = cell
					mu.Unlock()
					stand(t, e.name, open)
					if longest := max(silence["10.0.0.10"], silence["10.0.1.20"], silence["10.0.1.21"]); longest > 15*time.Second {
						t.Errorf("%s: silent for %v", e.name, longest)
					}
				}
				noneFailed(t, i)
			})
		}
	})
	table := "| what happens | Debian 12: eth0 | eth1 | Debian 13: eth0 | eth1 |\n| --- | --- | --- | --- | --- |\n"
	for _, e := range imageEvents {
		table += fmt.Sprintf("| %s | %s | %s |\n", e.name, cells["bookworm"+e.name], cells["trixie"+e.name])
	}
	report.Update(t, "../../docs/stacks.md", "calm", table)
}
