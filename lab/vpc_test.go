package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ec2net/lab/imds"
)

// asks fails the test if from gets no answer at an address, over TCP and UDP.
func asks(t *testing.T, from *Place, to string) {
	t.Helper()
	if err := from.TCP(to); err != nil {
		t.Errorf("%v", err)
	}
	if err := from.UDP(to); err != nil {
		t.Errorf("%v", err)
	}
}

func TestVPCConnects(t *testing.T) {
	t.Parallel()
	v := NewVPC(t, Plan{})
	a, b, c := v.Host(t, "10.0.0.8"), v.Host(t, "10.0.0.9"), v.Host(t, "10.0.1.9")
	b.Echo(t, 7)
	v.Client.Echo(t, 7)
	for _, from := range []*Place{a, c, v.Client} {
		asks(t, from, "10.0.0.9:7")
	}
	asks(t, a, clientAddr+":7")
	if dropped := v.Dropped(t); dropped != "" {
		t.Errorf("dropped:\n%s", dropped)
	}
	if n := c.ENI.Counters(t).Sent; n < 4 { // SYN, ACK, line, question
		t.Errorf("host %s sent %d packets", c.Name, n)
	}

	// A broadcast of a host reaches nobody: b receives the second line first.
	heard := listenUDP(t, b, 9)
	for _, to := range []string{"255.255.255.255:9", "10.0.0.255:9", "10.0.0.9:9"} {
		conn := listenUDP(t, a, 0)
		if _, err := conn.WriteTo([]byte(to), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Error(err)
		}
	}
	line := make([]byte, 64)
	n, err := read(heard, line)
	if got := string(line[:n]); err != nil || got != "10.0.0.9:9" {
		t.Errorf("heard %q, %v", got, err)
	}

	// Nobody but the router has told a host where another one is.
	err = a.Do(func() error {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, n := range neighbours {
			if n.State != netlink.NUD_NOARP && n.HardwareAddr.String() != v.subnets[0].mac().String() {
				t.Errorf("%s is at %s for host %s", n.IP, n.HardwareAddr, a.Name)
			}
		}
		if len(neighbours) < 2 {
			t.Errorf("host %s knows %v", a.Name, neighbours)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestVPCMoves moves an address from one ENI to another.
func TestVPCMoves(t *testing.T) {
	t.Parallel()
	const addr = "10.0.0.50"
	v := NewVPC(t, Plan{})
	var last *Place
	for _, h := range []*Place{v.Host(t, "10.0.0.8"), v.Host(t, "10.0.0.9")} {
		h.Echo(t, 7)
		if err := h.Do(func() error { return addAddress("eth0", addr+"/32") }); err != nil {
			t.Fatal(err)
		}
		if last != nil {
			last.ENI.Unassign(t, addr)
		}
		h.ENI.Assign(t, addr)
		v.ResetCounters(t)
		asks(t, v.Client, addr+":7")
		if c := h.ENI.Counters(t); c.Sent < 4 || c.Dropped() != 0 {
			t.Errorf("%s answered for %s with %+v", h.Name, addr, c)
		}
		last = h
	}
}

func TestVPCPort(t *testing.T) {
	t.Parallel()
	v := NewVPC(t, Plan{})
	h := v.Host(t, "10.0.0.9")
	v.Client.Echo(t, 7)
	own, err := net.ParseMAC(h.ENI.MAC)
	if err != nil {
		t.Fatal(err)
	}
	foreign := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, test := range []struct {
		name string
		want Counters // what is dropped, at least
		pass bool     // or nothing is dropped, and there is an answer
		send func() error
	}{
		{name: "an assigned address", pass: true, send: func() error {
			h.ENI.Assign(t, "10.0.0.77")
			return send(h, "10.0.0.77", true)
		}},
		{name: "a foreign address", want: Counters{ForeignSource: 1}, send: func() error {
			h.ENI.Unassign(t, "10.0.0.77")
			return send(h, "10.0.0.77", false)
		}},
		{name: "its own DHCP request", pass: true, send: func() error { return discover(t, h, own, true) }},
		{name: "a foreign DHCP request", want: Counters{ForeignDHCP: 1}, send: func() error {
			return discover(t, h, foreign, false)
		}},
		{name: "ARP for a foreign address", want: Counters{ForeignARP: 1}, send: func() error {
			return h.Do(func() error {
				if err := addAddress("eth0", "192.0.2.1/24"); err != nil {
					return err
				}
				conn, err := net.Dial("udp4", "192.0.2.2:9")
				if err == nil {
					_, err = conn.Write([]byte("x"))
				}
				return err
			})
		}},
		{name: "a foreign MAC", want: Counters{ForeignMAC: 1}, send: func() error {
			return h.Do(func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				if err := netlink.LinkSetHardwareAddr(link, foreign); err != nil {
					return err
				}
				return send(h, "10.0.0.9", false)
			})
		}},
	} {
		v.ResetCounters(t)
		err := test.send()
		c := h.ENI.Counters(t)
		for deadline := time.Now().Add(answerWait); c.Dropped() == 0 && !test.pass && time.Now().Before(deadline); {
			c = h.ENI.Counters(t)
		}
		if test.pass {
			if err != nil || c.Dropped() != 0 {
				t.Errorf("%s: %v, %+v", test.name, err, c)
			}
			continue
		}
		w := test.want
		if c.ForeignSource < w.ForeignSource || c.ForeignARP < w.ForeignARP ||
			c.ForeignDHCP < w.ForeignDHCP || c.ForeignMAC < w.ForeignMAC {
			t.Errorf("%s: %v, counted %+v, want at least %+v", test.name, err, c, w)
		}
		if got := v.Dropped(t); !strings.Contains(got, "ENI 10.0.0.9: dropped for its ") {
			t.Errorf("%s: says %q", test.name, got)
		}
	}
}

// send sends a line to the client, from an address that the host gets if it lacks it.
func send(h *Place, from string, answered bool) error {
	err := h.Do(func() error {
		err := addAddress("eth0", from+"/32")
		if err != nil && strings.Contains(err.Error(), "exists") {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	conn, err := h.Dial("udp", from, clientAddr+":7")
	if err != nil {
		return err
	}
	defer conn.Close()
	if answered {
		_, err = Ask(conn)
	} else {
		_, err = conn.Write([]byte("x"))
	}
	return err
}

// discover broadcasts a DHCPDISCOVER for a MAC.
func discover(t *testing.T, h *Place, chaddr net.HardwareAddr, answered bool) error {
	conn := listenUDP(t, h, 68)
	defer conn.Close()
	message := make([]byte, 244)
	message[0], message[1], message[2] = 1, 1, 6 // BOOTREQUEST, Ethernet
	binary.BigEndian.PutUint32(message[4:], 0xec2)
	copy(message[28:], chaddr)
	copy(message[236:], "\x63\x82\x53\x63\x35\x01\x01\xff") // RFC 2131: cookie, DISCOVER, end
	if _, err := conn.WriteToUDP(message, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
		return err
	}
	if !answered {
		return nil
	}
	_, err := read(conn, message)
	return err
}

// read reads with a time limit.
func read(conn *net.UDPConn, data []byte) (int, error) {
	if err := conn.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return 0, err
	}
	return conn.Read(data)
}

// listenUDP returns a socket that may send to all.
func listenUDP(t *testing.T, p *Place, port int) (conn *net.UDPConn) {
	t.Helper()
	err := p.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestVPCMetadata: when the metadata service describes an ENI.
func TestVPCMetadata(t *testing.T) {
	t.Parallel()
	v := NewVPC(t, Plan{})
	e := v.AddENI(t, "10.0.1.20", "10.0.1.21")
	h := v.Host(t, "10.0.0.9") // comes to the service as the instance does
	get := func(key string) string {
		t.Helper()
		status, body := metadata(t, h, key)
		return fmt.Sprint(status, " ", body)
	}
	is := func(key, want string) {
		t.Helper()
		if got := get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	const eth1 = "network/interfaces/macs/02:00:0a:00:01:14/"
	list := func(macs ...string) string { return "200 " + strings.Join(macs, "/\n") + "/" }

	is("mac", "200 02:00:0a:00:00:0a")
	is("network/interfaces/macs/", list("02:00:0a:00:00:0a"))
	e.Describe(Provisional)
	e.Attach(t, "eth1")
	is("network/interfaces/macs/", list("02:00:0a:00:00:0a", "02:00:0a:00:01:14"))
	is("mac", "200 02:00:0a:00:00:0a")
	is(eth1+"device-number", "200 0")
	if got := get(eth1 + "local-ipv4s"); !strings.HasPrefix(got, "404 ") {
		t.Errorf("a provisional ENI has the addresses %q", got)
	}
	e.Describe(nil)
	is(eth1+"device-number", "200 1")
	is(eth1+"local-ipv4s", "200 10.0.1.20\n10.0.1.21")
	is(eth1+"subnet-ipv4-cidr-block", "200 10.0.1.0/24")
	is(eth1+"vpc-ipv4-cidr-blocks", "200 10.0.0.0/16")
	e.Unassign(t, "10.0.1.21")
	e.Assign(t, "10.0.1.22")
	is(eth1+"local-ipv4s", "200 10.0.1.20\n10.0.1.22")
	e.Hide(true)
	is("network/interfaces/macs/", list("02:00:0a:00:00:0a"))
	e.Hide(false)
	e.Detach(t)
	is("network/interfaces/macs/", list("02:00:0a:00:00:0a"))
	v.IMDS.Fault(imds.Fault{Status: 503})
	if status, _ := metadata(t, h, "mac"); status != 503 {
		t.Errorf("status %d while the service fails", status)
	}
	v.IMDS.Heal()

	v.Metadata(t, Refused)
	if _, err := h.Dial("tcp", "", imdsAddr+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused, it says %v", err)
	}
	v.Metadata(t, Silent)
	h.Patience = Silence
	var timeout net.Error
	if _, err := h.Dial("tcp", "", imdsAddr+":80"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("silent, it says %v", err)
	}
	v.Metadata(t, Up)
	h.Patience = 0
	is("mac", "200 02:00:0a:00:00:0a")
}

func BenchmarkVPC(b *testing.B) {
	tree := Debian(b, "bookworm")
	for b.Loop() {
		v, err := newVPC(b.Context(), tree, Plan{})
		if v != nil {
			v.close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBoot times a boot, from power on to an address on eth0, without systemd.
func BenchmarkBoot(b *testing.B) {
	i := NewVPC(b, Plan{}).Boot(b, Setup{})
	for b.Loop() {
		i.Crash(b)
		i.On(b)
	}
}
