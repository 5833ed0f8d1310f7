package endtoend

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"ec2net/lab"
	"ec2net/lab/report"
)

// A situation is an ENI on a machine that boots Debian's image for EC2.
type situation struct {
	release   string
	later     bool // attached to the running machine, else there at the first boot
	other     bool // in another subnet than eth0's
	addresses int
}

func situations() (all []situation) {
	for _, release := range []string{"bookworm", "trixie"} {
		for _, later := range []bool{false, true} {
			for _, other := range []bool{false, true} {
				for addresses := 1; addresses <= 2; addresses++ {
					all = append(all, situation{release, later, other, addresses})
				}
			}
		}
	}
	return all
}

func (s situation) String() string {
	when, where := "at first boot", "same"
	if s.later {
		when = "attached later"
	}
	if s.other {
		where = "other"
	}
	return fmt.Sprintf("%s | %s | %s | %d", debian[s.release], when, where, s.addresses)
}

var debian = map[string]string{"bookworm": "Debian 12", "trixie": "Debian 13"}

// What Debian's image makes of an ENI without ec2net: who gets an answer from which
// address.
func TestImageAlone(t *testing.T) {
	t.Parallel()
	all := situations()
	rows := make([]string, len(all))
	t.Run("situations", func(t *testing.T) {
		for n, s := range slices.Backward(all) { // the long ones first
			t.Run(strings.NewReplacer(" | ", "_", " ", "_").Replace(s.String()), func(t *testing.T) {
				t.Parallel()
				rows[n] = fmt.Sprintf("| %v | %s |\n", s, play(t, s, lab.Setup{}))
			})
		}
	})
	if t.Failed() {
		return
	}
	report.Section(t, "../../docs/stacks.md", "alone", `| image | ENI | subnet | addresses | eth1 | rules | eth0 | eth1 | its second address | one assigned later | published port |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`+strings.Join(rows, ""))
}

// play boots the image with an ENI and returns the columns of the table that it gives.
func play(t *testing.T, s situation, setup lab.Setup) string {
	t.Helper()
	v := lab.NewVPC(t, lab.Plan{})
	subnet := "10.0.0."
	if s.other {
		subnet = "10.0.1."
	}
	first, second, assigned := subnet+"20", subnet+"21", subnet+"22"
	eth1 := v.AddENI(t, []string{first, second}[:s.addresses]...)
	if !s.later {
		eth1.Attach(t, "eth1")
	}
	setup.Release, setup.Image = s.release, true
	i := v.Boot(t, setup)
	i.WaitRunning(t)
	if s.later {
		eth1.Attach(t, "eth1")
		waitCloudInit(t, i, s.release)
	}
	eth1.Assign(t, assigned)
	publishPort(t, i)
	i.Echo(t, 7)

	w := witnesses(t, v)
	w.ask("eth0", "10.0.0.10:7")
	w.ask("eth1", first+":7")
	if s.addresses > 1 {
		w.ask("second", second+":7")
	}
	w.ask("assigned", assigned+":7")
	w.ask("port", first+":80")
	w.wait()

	state := "down"
	if strings.Contains(i.Sh(t, "ip -4 addr show dev eth1"), first) {
		state = "up"
	}
	const kernels = 3 // rules
	rules := strings.Count(i.Sh(t, "ip rule"), "\n") - kernels
	if s.later {
		eth1.Detach(t)
		// Debian 13 forgets the ENI.
		i.WaitSh(t, fmt.Sprintf("! grep eth1 /etc/netplan/50-cloud-init.yaml && test %d = $(ip rule | wc -l)", kernels))
	}
	noneFailed(t, i)
	return fmt.Sprintf("%s | %d | %s | %s | %s | %s | %s", state, rules,
		w.who("eth0"), w.who("eth1"), w.who("second"), w.who("assigned"), w.who("port"))
}

// waitCloudInit waits until cloud-init has done what it does about an ENI that was
// attached. In Debian 12 its hotplug is off; in Debian 13 it works for half a minute.
func waitCloudInit(t *testing.T, i *lab.Instance, release string) {
	t.Helper()
	i.Sh(t, "udevadm settle")
	if release != "bookworm" {
		i.WaitSh(t, "journalctl --boot --unit=cloud-init-hotplugd.service | grep -q 'Finished cloud-init-hotplugd'")
	}
}

// publishPort publishes port 80 of a container on every address of the machine, as docker
// does, but without docker: what counts is that the answer has another source address
// when it is routed.
func publishPort(t *testing.T, i *lab.Instance) {
	t.Helper()
	i.Beyond(t, "app0", "172.17.0.1/30", "172.17.0.2/30").Echo(t, 7)
	i.Sh(t, `sysctl --quiet --write net.ipv4.ip_forward=1
nft -f - <<'.'
table ip published {
	chain prerouting {
		type nat hook prerouting priority dstnat
		tcp dport 80 fib daddr type local dnat to 172.17.0.2:7
	}
}
.`)
}

// A witness has asked addresses from several places.
type witness struct {
	places []*lab.Place
	asking sync.WaitGroup
	mu     sync.Mutex
	heard  map[string][]bool // by question, for each place
}

// witnesses are the client outside, a host in eth0's subnet, and one in the other subnet.
func witnesses(t *testing.T, v *lab.VPC) *witness {
	t.Helper()
	w := &witness{
		places: []*lab.Place{v.Client, v.Host(t, "10.0.0.99"), v.Host(t, "10.0.1.99")},
		heard:  map[string][]bool{},
	}
	for _, p := range w.places {
		p.Patience = lab.Silence
	}
	return w
}

// ask asks an address from every place, in the background: no answer is one only if it
// does not come on a busy machine either.
func (w *witness) ask(question, addr string) {
	const tries = 3
	heard := make([]bool, len(w.places))
	w.heard[question] = heard
	for n, p := range w.places {
		w.asking.Go(func() {
			for range tries {
				if p.TCP(addr) == nil {
					w.mu.Lock()
					heard[n] = true
					w.mu.Unlock()
					return
				}
			}
		})
	}
}

func (w *witness) wait() { w.asking.Wait() }

// who names the places that an answer came to, after wait.
func (w *witness) who(question string) string {
	heard, asked := w.heard[question]
	if !asked {
		return ""
	}
	var names []string
	for n, name := range []string{"c", "p", "q"} {
		if heard[n] {
			names = append(names, name)
		}
	}
	if names == nil {
		return "–"
	}
	return strings.Join(names, " ")
}
