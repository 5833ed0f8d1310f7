package endtoend

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ec2net/lab"
	"ec2net/lab/report"
)

// A situation is an ENI on a machine that boots Debian's image for EC2.
type situation struct {
	release string
	later   bool // attached to the running machine, else there at the first boot
	other   bool // in another subnet than eth0's
	ec2net  bool // is there
}

func situations() (all []situation) {
	for _, ec2net := range []bool{false, true} {
		for _, release := range []string{"bookworm", "trixie"} {
			for _, later := range []bool{false, true} {
				for _, other := range []bool{false, true} {
					all = append(all, situation{release, later, other, ec2net})
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
	return fmt.Sprintf("%s | %s | %s", debian[s.release], when, where)
}

var debian = map[string]string{"bookworm": "Debian 12", "trixie": "Debian 13"}

// What Debian's images make of an ENI, and what ec2net makes of it: who gets an answer
// from which address.
func TestImage(t *testing.T) {
	t.Parallel()
	all := situations()
	pictures := make([]picture, len(all))
	t.Run("situations", func(t *testing.T) {
		for n, s := range all {
			name := strings.NewReplacer(" | ", "_", " ", "_").Replace(s.String())
			if s.ec2net {
				name = "ec2net_" + name
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pictures[n] = play(t, s)
			})
		}
	})
	if t.Failed() || slices.ContainsFunc(pictures, func(p picture) bool { return p.eth1 == "" }) {
		return // or -run has left some out
	}
	table := `| image | ENI | subnet | eth1 | rules | eth0 | eth1 | its second address | one assigned later | published port |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`
	silent := map[string]time.Duration{}
	for n, s := range all {
		p := pictures[n]
		key := fmt.Sprint(s.release, s.ec2net)
		silent[key] = max(silent[key], p.silent)
		if !s.ec2net {
			table += fmt.Sprintf("| %v | %s | %d | %s |\n", s, p.eth1, p.rules, strings.Join(p.who, " | "))
			continue
		}
		for q, who := range p.who {
			if who != "c p q" {
				t.Errorf("%v: with ec2net the answer to question %d comes to %q", s, q, who)
			}
		}
	}
	const doc = "../../docs/stacks.md"
	report.Section(t, doc, "alone", table)
	table = "| image | without ec2net | with ec2net |\n| --- | --- | --- |\n"
	for _, release := range []string{"bookworm", "trixie"} {
		table += fmt.Sprintf("| %s | %.1f s | %.1f s |\n", debian[release], silent[release+"false"].Seconds(), silent[release+"true"].Seconds())
	}
	report.Update(t, doc, "silent", table)
}

// A picture is what was seen of a situation.
type picture struct {
	eth1   string // "up" or "down"
	rules  int
	who    []string      // by question: the places that got an answer
	silent time.Duration // the longest time that eth0 did not answer while the ENI was attached
}

// The questions, in the order of the table.
const (
	primary = iota
	first
	second
	assigned
	port
)

// play boots the image with an ENI and asks.
func play(t *testing.T, s situation) (seen picture) {
	t.Helper()
	v := lab.NewVPC(t, lab.Plan{})
	subnet := "10.0.0."
	if s.other {
		subnet = "10.0.1."
	}
	addrs := []string{primary: "10.0.0.10", first: subnet + "20", second: subnet + "21", assigned: subnet + "22"}
	eth1 := v.AddENI(t, addrs[first], addrs[second])
	if !s.later {
		eth1.Attach(t, "eth1")
	}
	setup := lab.Setup{Release: s.release, Image: true}
	if s.ec2net {
		setup.Install, setup.Files, setup.Prepare = installed, files, imageReady
	}
	i := v.Boot(t, setup)
	i.WaitRunning(t)
	i.Echo(t, 7)
	publishPort(t, i)
	end := streams(t, v.Client, addrs[primary])
	if s.later {
		eth1.Attach(t, "eth1")
	}
	switch {
	case s.ec2net:
		waitUp(t, i, "eth1")
	case s.later:
		waitCloudInit(t, i, s.release)
	}
	if silences := end(); s.later {
		seen.silent = silences[addrs[primary]]
	}
	eth1.Assign(t, addrs[assigned])
	if s.ec2net {
		i.Sh(t, "ec2net refresh eth1") // as watch does every minute
	}

	questions := []string{port: addrs[first] + ":80"}
	for q, addr := range addrs {
		questions[q] = addr + ":7"
	}
	seen.who = ask(t, v, questions)
	seen.eth1 = "down"
	if strings.Contains(i.Sh(t, "ip -4 addr show dev eth1"), addrs[first]) {
		seen.eth1 = "up"
	}
	const kernels = 3 // rules
	seen.rules = strings.Count(i.Sh(t, "ip rule"), "\n") - kernels
	if s.later {
		eth1.Detach(t)
		// Debian 13 forgets the ENI, and so does ec2net.
		i.WaitSh(t, fmt.Sprintf("! grep eth1 /etc/netplan/50-cloud-init.yaml && test %d = $(ip rule | wc -l)", kernels))
	}
	noneFailed(t, i)
	return seen
}

// waitCloudInit waits until cloud-init has done what it does about an ENI that was
// attached. In Debian 12 its hotplug is off; in Debian 13 it works for half a minute.
func waitCloudInit(t *testing.T, i *lab.Instance, release string) {
	t.Helper()
	i.Sh(t, "udevadm settle")
	if release != "bookworm" {
		i.Sh(t, "until journalctl --boot --unit=cloud-init-hotplugd.service | grep -q 'Finished cloud-init-hotplugd'; do sleep 0.5; done")
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

// ask asks all questions at once from all places: the client outside, c, a host in eth0's
// subnet, p, and one in the other subnet, q. It returns who got an answer, for each
// question. What does not come within six times a SYN's second try does not come.
func ask(t *testing.T, v *lab.VPC, questions []string) []string {
	t.Helper()
	const tries = 6
	places := []*lab.Place{v.Client, v.Host(t, "10.0.0.99"), v.Host(t, "10.0.1.99")}
	heard := make([][3]bool, len(questions))
	var asking sync.WaitGroup
	for n, p := range places {
		p.Patience = lab.Silence
		for q, addr := range questions {
			asking.Go(func() {
				for try := 0; try < tries && addr != "" && !heard[q][n]; try++ {
					heard[q][n] = p.TCP(addr) == nil
				}
			})
		}
	}
	asking.Wait()
	who := make([]string, len(questions))
	for q, addr := range questions {
		var names []string
		for n, name := range []string{"c", "p", "q"} {
			if heard[q][n] {
				names = append(names, name)
			}
		}
		if who[q] = strings.Join(names, " "); names == nil && addr != "" {
			who[q] = "–"
		}
	}
	return who
}
