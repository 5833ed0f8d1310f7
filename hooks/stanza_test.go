package hooks

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"ec2net/plan"
	"ec2net/render"
)

// ownRoutes are routes that an administrator's template adds, and one that is ifup's alone.
const ownRoutes = `{{define "cfg-routes"}}
    post-up ip route replace 192.168.0.0/16 via 10.0.1.7 dev {{.Name}} table {{.Table}} || true
    post-up ip route replace 192.168.7.0/24 dev eth0 table {{.Table}} || true
    post-up ip route replace 192.168.8.0/24 via $GATEWAY table {{.Table}} || true
{{end}}`

var table1001 = []string{
	"ip route add 10.0.1.0/24 dev eth1 table 1001",
	"ip route add 192.168.0.0/16 via 10.0.1.7 dev eth1 table 1001",
	"ip route add 192.168.7.0/24 dev eth0 table 1001",
	"ip route add default via 10.0.1.1 dev eth1 table 1001",
	"ip route add unreachable default metric 65535 table 1001",
}

// tableNow returns the routes of a table, as the commands that add them.
func (m *machine) tableNow(t *testing.T, table int) (texts []string) {
	t.Helper()
	s := m.state(t)
	for _, r := range s.Routes {
		if r.Table == table {
			l, _ := s.LinkAt(r.Link)
			texts = append(texts, plan.AddRoute{Link: l, Route: r}.String())
		}
	}
	slices.Sort(texts)
	return texts
}

func (m *machine) flush(t *testing.T, table int) {
	t.Helper()
	for _, r := range m.routes(t) {
		if r.Table == table {
			check(t, m.kernel.Apply(plan.DelRoute{Route: r}))
		}
	}
}

// filter sets rp_filter of an interface; of all of them by the name all.
func filter(t *testing.T, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte(value), 0))
}

func filterNow(t *testing.T, name string) string {
	t.Helper()
	value, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/rp_filter")
	check(t, err)
	return strings.TrimSpace(string(value))
}

// Whatever the stanza makes comes back with the next event: the routes of the table, a
// template's among them, the unreachable one, a loose rp_filter. Of an ENI that is gone
// nothing is left.
func TestWhatTheStanzaMakes(t *testing.T) {
	onMachine(t, func(m *machine) {
		templates, err := render.Load(fakeOverrides{"blocks.tmpl": ownRoutes})
		check(t, err)
		m.Templates = templates
		ready(t, m)
		same(t, "table", m.tableNow(t, 1001), table1001)

		m.flush(t, 1001)
		m.lease(t, "eth1", "RENEW", "10.0.1.20")
		same(t, "table, flushed", m.tableNow(t, 1001), table1001)

		l, err := m.netns.LinkByName("eth1")
		check(t, err)
		check(t, errors.Join(m.netns.LinkSetDown(l), m.netns.LinkSetUp(l)))
		m.lease(t, "eth0", "RENEW", "10.0.0.10") // an event of another one
		same(t, "table, eth1 set down and up", m.tableNow(t, 1001), table1001)

		for _, c := range []struct{ all, own, want string }{
			{"0", "1", "2"}, {"1", "1", "2"}, {"1", "0", "2"}, {"0", "0", "0"}, {"2", "1", "1"}, {"2", "0", "0"}, {"1", "2", "2"},
		} {
			filter(t, "all", c.all)
			filter(t, "eth1", c.own)
			m.lease(t, "eth1", "RENEW", "10.0.1.20")
			if now := filterNow(t, "eth1"); now != c.want {
				t.Errorf("all %s, eth1 %s: now %s, want %s", c.all, c.own, now, c.want)
			}
			filter(t, "all", "0")
		}

		// The unit that takes it down fails: any other event removes what the kernel has.
		m.pull(t, "eth1")
		same(t, "table of an ENI that is gone", m.tableNow(t, 1001), []string{table1001[2], table1001[4]})
		m.lease(t, "eth0", "RENEW", "10.0.0.10")
		same(t, "table of an ENI that is gone, after an event", m.tableNow(t, 1001), nil)
		same(t, "rules of an ENI that is gone", m.rulesNow(t), nil)
	})
}
