package lab

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// answerWait bounds the wait for an answer that has to come, on the slowest machine.
// Silence is the wait for one that must not come: a SYN is sent again after one
// second, tcp(7).
const (
	answerWait = 20 * time.Second
	Silence    = 2500 * time.Millisecond
)

// A Place is where connections begin and end: the client outside, a host on a
// subnet, the instance.
type Place struct {
	Name string
	ENI  *ENI // connects it, if a single ENI does
	// Patience bounds the wait for an answer: 20 seconds if it is 0; [Silence] where
	// none must come.
	Patience time.Duration

	mu  sync.Mutex
	net *netns
}

func (p *Place) netns() *netns {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.net
}

// Do runs f on a thread in the place's network namespace. Sockets that f opens
// stay there. The root and the processes that f sees are this machine's.
func (p *Place) Do(f func() error) error { return p.netns().do(f) }

func (p *Place) close() { p.netns().close() }

// Echo answers on a port, TCP and UDP, at every address of the place, until the test
// or the instance ends. It answers a line with the address that it came from, and the
// line.
func (p *Place) Echo(tb TB, port int) {
	tb.Helper()
	var tcp net.Listener
	var udp *net.UDPConn
	err := p.Do(func() (err error) {
		at := &net.TCPAddr{Port: port}
		if tcp, err = net.ListenTCP("tcp4", at); err != nil {
			return err
		}
		if udp, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port}); err != nil {
			return err
		}
		raw, err := udp.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}), err)
	})
	if err != nil {
		tb.Fatalf("%s: cannot answer on port %d: %v", p.Name, port, err)
	}
	tb.Cleanup(func() { _, _ = tcp.Close(), udp.Close() })
	go echoTCP(tcp)
	go echoUDP(udp)
}

func echoTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := fmt.Fprintf(conn, "%s %s\n", conn.RemoteAddr(), lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}

// echoUDP answers from the address that was asked: IP_PKTINFO in ip(7). By itself an
// unbound socket answers from the address that the route prefers.
func echoUDP(conn *net.UDPConn) {
	data, oob := make([]byte, 2048), make([]byte, 256)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(data, oob)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) == 0 || len(messages[0].Data) < unix.SizeofInet4Pktinfo {
			continue
		}
		// ipi_ifindex, ipi_spec_dst, ipi_addr: the last is the one that was asked.
		var info unix.Inet4Pktinfo
		copy(info.Spec_dst[:], messages[0].Data[8:12])
		answer := fmt.Sprintf("%s %s", from, data[:n])
		_, _, _ = conn.WriteMsgUDPAddrPort([]byte(answer), unix.PktInfo4(&info), from)
	}
}

// Dial connects to an address like "10.0.1.20:7", from an address of the
// place or from any, "". The network is "tcp" or "udp".
func (p *Place) Dial(network, from, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: p.patience()}
	if from != "" {
		addr, err := netip.ParseAddr(from)
		if err != nil {
			return nil, err
		}
		local := netip.AddrPortFrom(addr, 0)
		if d.LocalAddr = net.TCPAddrFromAddrPort(local); network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	var conn net.Conn
	err := p.Do(func() (err error) {
		conn, err = d.DialContext(context.Background(), network, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return conn, nil
}

func (p *Place) patience() time.Duration { return cmp.Or(p.Patience, answerWait) }

// Ask sends a line over a connection to an Echo and returns the address that
// the other side says it came from. It waits for 20 seconds.
func Ask(conn net.Conn) (from string, err error) { return ask(conn, answerWait) }

func ask(conn net.Conn, patience time.Duration) (from string, err error) {
	question := fmt.Sprintf("%x", time.Now().UnixNano())
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, question); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	from, echo, _ := strings.Cut(strings.TrimSpace(answer), " ")
	if echo != question {
		return "", fmt.Errorf("asked %q, was answered %q", question, answer)
	}
	return from, nil
}

// TCP asks the Echo at an address over a new connection.
func (p *Place) TCP(to string) error { return p.ask("tcp", to) }

// UDP asks the Echo at an address, once.
func (p *Place) UDP(to string) error { return p.ask("udp", to) }

func (p *Place) ask(network, to string) error {
	conn, err := p.Dial(network, "", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := ask(conn, p.patience()); err != nil {
		return fmt.Errorf("%s asked %s over %s: %w", p.Name, to, network, err)
	}
	return nil
}
