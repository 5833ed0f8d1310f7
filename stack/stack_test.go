package stack

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ec2net/disk"
	"ec2net/iprule"
	"ec2net/plan"
)

func openTree(tb testing.TB) *disk.Tree {
	tb.Helper()
	tree, err := disk.OpenTree(tb.TempDir(), false)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tree.Close() })
	return tree
}

func put(tb testing.TB, tree *disk.Tree, path, text string) {
	tb.Helper()
	if _, err := tree.Write(path, []byte(text)); err != nil {
		tb.Fatal(err)
	}
}

// is fails unless the owner's text contains who, and has a hint; or, with "", unless
// it is nobody.
func is(t *testing.T, what string, got Owner, who string) {
	t.Helper()
	if got.Nobody() != (who == "") || !strings.Contains(got.Who, who) || (who != "" && got.Hint == "") {
		t.Errorf("%s: %+v, want %q", what, got, who)
	}
}

const (
	networkdFile = "/run/systemd/netif/links/7"
	managerFile  = "/run/NetworkManager/devices/7"
)

// Elsewhere names the program that configures an interface.
func TestElsewhere(t *testing.T) {
	for _, c := range []struct{ name, path, text, who string }{
		{name: "nobody"},
		{name: "networkd, unmanaged", path: networkdFile, text: "ADMIN_STATE=unmanaged\nOPER_STATE=off\n"},
		{name: "networkd, told by its file to leave it", path: networkdFile,
			text: "ADMIN_STATE=unmanaged\nNETWORK_FILE=/etc/systemd/network/eth.network\n"},
		{name: "networkd, which has no file for it", path: networkdFile, text: "ADMIN_STATE=pending\n"},
		{name: "networkd", path: networkdFile, who: "systemd-networkd configures it, by /etc/systemd/network/eth.network",
			text: "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/eth.network\n"},
		{name: "networkd, which does not say by what", path: networkdFile, text: "ADMIN_STATE=configuring\n", who: "systemd-networkd"},
		{name: "netplan", path: networkdFile, who: "netplan",
			text: "ADMIN_STATE=configuring\nNETWORK_FILE=/run/systemd/network/10-netplan-eth1.network\n"},
		{name: "NetworkManager, unmanaged", path: managerFile, text: "[device]\nmanaged=false\n"},
		{name: "NetworkManager", path: managerFile, text: "[device]\nmanaged=true\n", who: "NetworkManager manages it"},
		{name: "another link's", path: "/run/NetworkManager/devices/8", text: "[device]\nmanaged=true\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			tree := openTree(t)
			if c.path != "" {
				put(t, tree, c.path, c.text)
			}
			o, err := Elsewhere(t.Context(), tree, plan.Link{Name: "eth1", Index: 7}, "")
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			is(t, c.name, o, c.who)
		})
	}
}

// Elsewhere waits for an undecided networkd, no longer than two seconds and no longer
// than the caller has.
func TestUndecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tree, start := openTree(t), time.Now()
		put(t, tree, networkdFile, "ADMIN_STATE=initialized\n")
		decided := make(chan struct{})
		time.AfterFunc(time.Second, func() {
			defer close(decided)
			put(t, tree, networkdFile, "ADMIN_STATE=configured\nNETWORK_FILE=/x.network\n")
		})
		o, err := Elsewhere(t.Context(), tree, plan.Link{Index: 7}, "")
		<-decided
		if err != nil || time.Since(start) > 1100*time.Millisecond {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
		is(t, "decided late", o, "/x.network")

		put(t, tree, networkdFile, "ADMIN_STATE=pending\n")
		start = time.Now()
		o, err = Elsewhere(t.Context(), tree, plan.Link{Index: 7}, "")
		if err != nil || time.Since(start) != undecided {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
		is(t, "never decided", o, "")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		start = time.Now()
		if _, err = Elsewhere(ctx, tree, plan.Link{Index: 7}, ""); err != nil || time.Since(start) != time.Second/2 {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
	})
}

// Where a link leads from /etc/systemd/network to another folder, networkd's state has the path
// there.
func TestReadLinkState(t *testing.T) {
	root := t.TempDir()
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	put(t, tree, "/srv/net/x", "")
	put(t, tree, "/etc/systemd/x", "")
	if err := os.Symlink("../../srv/net", root+"/etc/systemd/network"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"/srv/net/05-ec2net-eth1.network":             "/etc/systemd/network/05-ec2net-eth1.network",
		"/srv/05-ec2net-eth1.network":                 "/srv/05-ec2net-eth1.network",
		"/usr/lib/systemd/network/80-ec2.network":     "/usr/lib/systemd/network/80-ec2.network",
		"/run/systemd/network/10-netplan-x.network":   "/run/systemd/network/10-netplan-x.network",
		"/etc/systemd/network/05-ec2net-eth1.network": "/etc/systemd/network/05-ec2net-eth1.network",
	} {
		put(t, tree, networkdFile, "ADMIN_STATE=configured\nNETWORK_FILE="+file+"\n")
		if got, err := ReadLinkState(tree, 7); err != nil || got != (LinkState{"configured", want}) {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
	}
}

// AwaitLinkState waits for what it is told to wait for.
func TestAwaitLinkState(t *testing.T) {
	unknown := func(s LinkState) bool { return s == LinkState{} }
	for _, c := range []struct {
		name   string
		wait   func(LinkState) bool
		after  time.Duration
		want   LinkState
		waited time.Duration
	}{
		{"a decision", LinkState.Undecided, time.Second, LinkState{}, 0},
		{"any state", unknown, time.Second, LinkState{"configuring", "/x.network"}, time.Second},
		{"any state, in vain", unknown, 2 * undecided, LinkState{}, undecided},
	} {
		synctest.Test(t, func(t *testing.T) {
			tree, start := openTree(t), time.Now()
			done := make(chan struct{})
			time.AfterFunc(c.after, func() {
				defer close(done)
				put(t, tree, networkdFile, "ADMIN_STATE=configuring\nNETWORK_FILE=/x.network\n")
			})
			s, err := AwaitLinkState(t.Context(), tree, 7, c.wait)
			took := time.Since(start)
			<-done
			if err != nil || s != c.want || took < c.waited || took > c.waited+100*time.Millisecond {
				t.Errorf("%s: %+v, %v, after %v", c.name, s, err, took)
			}
		})
	}
}

// A file that cannot be read is an error, and does not mean nobody.
func TestElsewhereUnread(t *testing.T) {
	for _, path := range []string{networkdFile, managerFile} {
		tree := openTree(t)
		if err := tree.MakeDir(path); err != nil {
			t.Fatal(err)
		}
		if o, err := Elsewhere(t.Context(), tree, plan.Link{Index: 7}, ""); err == nil {
			t.Errorf("%s is a folder: %+v", path, o)
		}
	}
}

func TestByRules(t *testing.T) {
	const index = 7
	from := func(table, priority, protocol int, a string) iprule.Rule {
		return iprule.Rule{Priority: priority, From: netip.MustParsePrefix(a), Table: table, Protocol: protocol,
			SuppressPrefixLength: -1, SuppressGroup: -1}
	}
	for _, c := range []struct {
		name string
		rule iprule.Rule
		who  string
	}{
		{"another tool's table", from(10001, 32765, 0, "10.0.1.20/32"), `"pref 32765 from 10.0.1.20 lookup 10001 protocol 0"`},
		{"another tool's table, IPv6", from(10001, 32765, 0, "2001:db8::20/128"), "2001:db8::20"},
		{"an older tool's table, which is ec2net's", from(1001, 32765, 0, "10.0.1.20/32"), ""},
		{"a rule of ec2net's, from when it was eth3", from(1003, 1003, iprule.Protocol, "10.0.1.20/32"), ""},
		{"another address's rule", from(77, 100, 0, "10.7.0.1/32"), ""},
		{"another interface's address", from(77, 100, 0, "10.0.0.10/32"), ""},
		{"the subnet's rule", from(77, 100, 0, "10.0.1.0/24"), ""},
		{"for all", iprule.Rule{Priority: 100, Table: 77}, ""},
		{"into main", from(254, 100, 0, "10.0.1.20/32"), ""},
	} {
		state := plan.State{
			Addrs: []plan.Addr{
				{Link: 2, Prefix: netip.MustParsePrefix("10.0.0.10/24")},
				{Link: index, Prefix: netip.MustParsePrefix("10.0.1.20/24")},
				{Link: index, Prefix: netip.MustParsePrefix("2001:db8::20/128")},
			},
			Rules: []plan.Rule{{Rule: iprule.Rule{Table: 255}}, {Rule: c.rule}},
		}
		own := func(table int) bool { return table == 1001 }
		is(t, c.name, ByRules(state, plan.Link{Name: "eth1", Index: index}, own), c.who)
	}
}

// Whatever another program has written, value takes one line of it.
func FuzzValue(f *testing.F) {
	f.Add("managed=true\n")
	f.Add("NETWORK_FILE=/run/systemd/network/10-netplan-eth1.network\rmanaged=")
	f.Fuzz(func(t *testing.T, theirs string) {
		if v := value([]byte(theirs), "managed"); strings.Contains(v, "\n") || !strings.Contains(theirs, v) {
			t.Errorf("%q", v)
		}
	})
}
