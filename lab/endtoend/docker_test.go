package endtoend

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"ec2net/lab"
)

const (
	outside  = "198.51.100.7"
	eth0Addr = "10.0.0.10"
)

// published returns the options of a container whose Echo answers at a port of the
// host.
func published(port int, more ...string) []string {
	return append(more, "-p", fmt.Sprintf("%d:7", port), "-p", fmt.Sprintf("%d:7/udp", port),
		// The next question must not count unanswered packets again.
		"--sysctl=net.ipv4.tcp_synack_retries=0")
}

// echo runs a container with an Echo that is published.
func echo(t *testing.T, i *lab.Instance, name string, port int, more ...string) *lab.Container {
	t.Helper()
	c := i.Container(t, name, published(port, more...)...)
	c.Echo(t, 7)
	return c
}

// A line of the table is a client and the port that it asks at each address of the
// instance.
type line struct {
	what  string
	from  *lab.Place
	port  int      // 0: a container asks the client outside
	cells []string // "yes", "no", or what answered; how many frames were dropped
}

// A scene is an instance with docker: eth0, eth1, networks that were made before
// eth1 and after it.
type scene struct {
	v          *lab.VPC
	i          *lab.Instance
	addrs      []string     // eth0's, eth1's two
	places     []*lab.Place // who asks from elsewhere
	containers []*lab.Container
}

// networks are the networks of the scene's containers, in order, each with the port
// that its container publishes.
var networks = []struct {
	name string
	port int
}{{"docker0", 80}, {"network made before", 81}, {"network made after", 82}}

// stage makes a scene. With off, eth1 is configured by hand, without ec2net.
func (s stack) stage(t *testing.T, eth1 []string, backend string, on bool) *scene {
	t.Helper()
	c := &scene{v: lab.NewVPC(t, lab.Plan{}), addrs: append([]string{eth0Addr}, eth1...)}
	e := c.v.AddENI(t, eth1...)
	prepare := "update-alternatives --set iptables /usr/sbin/iptables-" + backend + "\n"
	if !on {
		prepare += "rm /usr/lib/udev/rules.d/53-ec2-network-interfaces.rules; mv /usr/sbin/ec2net /usr/sbin/ec2net.off\n"
	}
	c.i = s.boot(t, c.v, lab.Setup{Docker: true, Prepare: prepare})
	c.i.Sh(t, "sysctl -q net.ipv4.tcp_synack_retries=0")
	c.i.StartDocker(t)
	if on {
		dockerFinish(t, c.i)
	}
	c.run(t)
	c.i.Docker(t, "network", "create", "before")
	c.run(t, "--network=before")
	e.Attach(t, "eth1")
	if on {
		waitUp(t, c.i, "eth1")
	} else {
		c.i.WriteFile(t, "/etc/network/interfaces.d/off.cfg", "iface eth1 inet dhcp\n    metric 1001\n")
		c.i.Sh(t, "ifup eth1; ip addr add "+eth1[1]+"/24 dev eth1")
	}
	c.i.Docker(t, "network", "create", "after")
	c.run(t, "--network=after")

	c.v.Client.Echo(t, 7)
	c.places = []*lab.Place{c.v.Client, c.v.Host(t, "10.0.0.99")}
	if !strings.HasPrefix(eth1[0], "10.0.0.") {
		c.places = append(c.places, c.v.Host(t, "10.0.1.99"))
	}
	if !on {
		for _, p := range c.places {
			p.Patience = lab.Silence
		}
		for _, one := range c.containers {
			one.Patience = lab.Silence
		}
	}
	return c
}

// run runs the next container.
func (s *scene) run(t *testing.T, more ...string) {
	t.Helper()
	port := networks[len(s.containers)].port
	s.containers = append(s.containers, echo(t, s.i, fmt.Sprintf("c%d", port), port, more...))
}

// dockerFinish does what the job of that name does, when docker has started.
func dockerFinish(t *testing.T, i *lab.Instance) {
	t.Helper()
	i.Sh(t, "ec2net docker up")
}

// table asks everybody for everything.
func (s *scene) table(t *testing.T) []line {
	t.Helper()
	var lines []line
	for _, n := range networks {
		for _, p := range s.places {
			lines = append(lines, line{what: n.name, from: p, port: n.port})
		}
	}
	for _, p := range s.places {
		lines = append(lines, line{what: "host", from: p, port: 7})
	}
	for _, c := range s.containers {
		lines = append(lines, line{what: "host", from: &c.Place, port: 7})
	}
	for n := range lines {
		lines[n].cells = s.ask(t, lines[n])
	}
	for _, c := range s.containers {
		lines = append(lines, line{what: "outside, asked as", from: &c.Place, cells: []string{s.leaves(t, c)}})
	}
	return lines
}

// ask asks one port at all addresses, over TCP and UDP. Eth0's comes last: where
// its answer goes by eth1, ARP asks there in eth0's name, which is dropped, and
// with it whatever waits for the same neighbour.
func (s *scene) ask(t *testing.T, l line) []string {
	t.Helper()
	s.v.ResetCounters(t)
	answered := make([][2]bool, len(s.addrs))
	for _, together := range [][]int{{1, 2}, {0}} {
		var wg sync.WaitGroup
		for _, n := range together {
			to := s.addrs[n] + ":" + strconv.Itoa(l.port)
			wg.Go(func() { answered[n][0] = l.from.TCP(to) == nil })
			wg.Go(func() { answered[n][1] = l.from.UDP(to) == nil })
		}
		wg.Wait()
	}
	frames := s.v.Dropped(t)
	cells := make([]string, len(s.addrs))
	for n, a := range s.addrs {
		cells[n] = map[[2]bool]string{{true, true}: "yes", {true, false}: "TCP", {false, true}: "UDP", {false, false}: "no"}[answered[n]]
		if d := dropped(frames, `from `+a+` to `); d > 0 {
			cells[n] += fmt.Sprintf(" (%d dropped)", d)
		}
	}
	// What is from somewhere else belongs to no cell: ARP, a container's address.
	if all, seen := dropped(frames, `dropped for its \w+`), dropped(frames, `from (`+strings.Join(s.addrs, "|")+`) to `); all != seen {
		cells = append(cells, fmt.Sprintf("%d more dropped", all-seen))
	}
	return cells
}

// dropped adds up the numbers of the lines that speak of something.
func dropped(frames, of string) (sum int) {
	for _, m := range regexp.MustCompile(`(?m)^ENI [\d.]+: `+of+`.*: (\d+)$`).FindAllStringSubmatch(frames, -1) {
		n, _ := strconv.Atoi(m[len(m)-1])
		sum += n
	}
	return sum
}

// leaves says which of the instance's addresses a container has for others.
func (s *scene) leaves(t *testing.T, c *lab.Container) string {
	t.Helper()
	s.v.ResetCounters(t)
	conn, err := c.Dial("tcp", "", outside+":7")
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	from, err := lab.Ask(conn)
	if err != nil {
		return err.Error()
	}
	from, _, _ = strings.Cut(from, ":")
	if d := dropped(s.v.Dropped(t), `dropped for its \w+`); d > 0 {
		from += fmt.Sprintf(" (%d dropped)", d)
	}
	return from
}

// Every client asks every port of the instance, docker's and its own, at every
// address. The difference to the same table without ec2net is what ec2net makes work.
func TestDockerMatrix(t *testing.T) { onStacks(t, testDockerMatrix) }

func testDockerMatrix(t *testing.T, k stack) {
	for name, test := range map[string]struct {
		eth1    []string
		backend string
	}{
		"one subnet":                   {[]string{"10.0.0.20", "10.0.0.21"}, "nft"},
		"two subnets":                  {[]string{"10.0.1.20", "10.0.1.21"}, "nft"},
		"two subnets, iptables-legacy": {[]string{"10.0.1.20", "10.0.1.21"}, "legacy"},
	} {
		if !slices.Contains(k.backends, test.backend) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var off []line
			if k.name == ifupdown.name && test.backend == "nft" {
				off = k.stage(t, test.eth1, test.backend, false).table(t)
			}
			s := k.stage(t, test.eth1, test.backend, true)
			on := s.table(t)
			t.Logf("eth1 is %s\n%s", strings.Join(test.eth1, " and "), sideBySide(s.addrs, off, on))
			for _, l := range on {
				want := slices.Repeat([]string{"yes"}, len(s.addrs))
				if l.port == 0 {
					want = []string{eth0Addr}
				}
				if !slices.Equal(l.cells, want) {
					t.Errorf("%s, from %s: %q, want %q", l.what, l.from.Name, l.cells, want)
				}
			}
			if t.Failed() {
				t.Log(s.i.Trouble())
			}
		})
	}
}

// sideBySide prints two tables as one. Drops from none of the addresses are ARP, and
// have a column of their own.
func sideBySide(addrs []string, off, on []line) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	columns := strings.Join(addrs, "\t") + "\t\t"
	fmt.Fprintf(w, "what\tfrom\toff: %son: %s\n", columns, columns)
	for n, l := range on {
		cells := make([]string, 2*(len(addrs)+1))
		if off != nil {
			copy(cells, off[n].cells)
		}
		copy(cells[len(addrs)+1:], l.cells)
		fmt.Fprintf(w, "%s\t%s\t%s\n", l.what, l.from.Name, strings.Join(cells, "\t"))
	}
	w.Flush()
	return text.String()
}
