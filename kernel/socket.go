package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answerLimit bounds the wait for each message of an answer. The kernel usually answers
// at once, but may need a second while it removes hundreds of interfaces.
const answerLimit = 5 * time.Second

// socket is a netlink socket for requests, one at a time: netlink(7).
type socket struct {
	mu    sync.Mutex
	fd    int
	pid   uint32 // the socket's own address
	seq   uint32
	to    unix.SockaddrNetlink // the kernel
	limit time.Duration
	buf   []byte
	// strict says that the kernel filters a dump by the attributes in the request.
	strict bool
	// received is a seam for tests: it is called after each piece of an answer.
	received func()
}

// openSocket opens a socket in the network namespace of the calling thread. limit
// bounds each wait for a message of an answer.
//
// The kernel makes the pieces of a list as large as the largest buffer that it has seen
// on the socket, and the first ones small. So a look reads links first: of that list the
// kernel says if it changed while it was read.
func openSocket(protocol int, limit time.Duration) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd, to: unix.SockaddrNetlink{Family: unix.AF_NETLINK}, limit: limit,
		buf: make([]byte, 64<<10)} // a piece of a list has up to 32 KiB
	if err := s.prepare(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) prepare() error {
	wait := unix.NsecToTimeval(s.limit.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, option, &wait); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	own, err := unix.Getsockname(s.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	s.pid = own.(*unix.SockaddrNetlink).Pid
	// Linux before 4.20 does not have this option, and sends everything.
	s.strict = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	return nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// ErrInterrupted says that a list changed while it was read, so that it may lack entries
// that were there all the time: NLM_F_DUMP_INTR.
var ErrInterrupted = errors.New("the kernel's list changed while it was read")

// do sends a request and calls each with the data of every message of the answer, valid
// until each returns. It returns the error in the kernel's answer, a unix.Errno, or
// ErrInterrupted.
func (s *socket) do(req *nl.NetlinkRequest, each func(data []byte)) error {
	_, err := s.ask(req, each)
	return err
}

// ask does the same as do, and counts the pieces of the answer: the datagrams with
// messages for each.
func (s *socket) ask(req *nl.NetlinkRequest, each func(data []byte)) (pieces int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	req.Seq = s.seq
	if err := s.send(req.Serialize()); err != nil {
		return 0, err
	}
	a := answer{each: each, acked: req.Flags&unix.NLM_F_ACK != 0}
	for last := time.Now(); !a.done; {
		if time.Since(last) > s.limit {
			return a.pieces, errNoAnswer
		}
		n, err := s.receive()
		if err != nil {
			return a.pieces, err
		}
		if s.received != nil {
			s.received()
		}
		if s.hear(n, &a) {
			last = time.Now()
		}
	}
	if a.err == nil && a.interrupted {
		a.err = ErrInterrupted
	}
	return a.pieces, a.err
}

// answer is the kernel's answer to a request so far.
type answer struct {
	each        func(data []byte)
	acked       bool // an acknowledgement ends it
	pieces      int
	interrupted bool
	done        bool
	err         error
}

// hear takes in a datagram of n bytes, up to the end of the answer. It reports whether a
// message in it answers this request: late answers to an earlier one may come too.
func (s *socket) hear(n int, a *answer) (heard bool) {
	counted := false
	for m := range messages(s.buf[:n]) {
		if m.seq != s.seq || m.pid != s.pid {
			continue
		}
		heard = true
		a.interrupted = a.interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		if m.kind == unix.NLMSG_DONE || m.kind == unix.NLMSG_ERROR {
			a.done, a.err = true, m.errno()
			return heard
		}
		if !counted {
			counted = true
			a.pieces++
		}
		if a.each != nil {
			a.each(m.data)
		}
		if m.flags&unix.NLM_F_MULTI == 0 && !a.acked {
			a.done, a.interrupted = true, false
			return heard
		}
	}
	return heard
}

func (s *socket) send(request []byte) error {
	for {
		switch err := unix.Sendto(s.fd, request, 0, &s.to); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EAGAIN):
			return errNoAnswer
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("sendto", err)
		}
	}
}

// errNoAnswer says that the kernel did not answer within the limit.
var errNoAnswer = fmt.Errorf("the kernel did not answer: %w", os.ErrDeadlineExceeded)

func (s *socket) receive() (int, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return 0, errNoAnswer
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, os.NewSyscallError("recvfrom", err)
		case n > len(s.buf):
			return 0, fmt.Errorf("the kernel's answer has a message of %d bytes", n)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != s.to.Pid {
			return 0, nil // another process may send to this socket
		}
		return n, nil
	}
}

// message is one netlink message.
type message struct {
	kind, flags uint16
	seq, pid    uint32
	data        []byte
}

// errno returns the error in a message of the kind NLMSG_ERROR or NLMSG_DONE.
func (m message) errno() error {
	if len(m.data) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(m.data)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

// messages yields the messages of one datagram.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.SizeofNlMsghdr || length > len(b) {
				return
			}
			m := message{kind: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
				seq: binary.NativeEndian.Uint32(b[8:]), pid: binary.NativeEndian.Uint32(b[12:]),
				data: b[unix.SizeofNlMsghdr:length]}
			if !yield(m) {
				return
			}
			b = b[min(aligned(length), len(b)):]
		}
	}
}

// attributes yields the type and value of each attribute: those after the fixed header of
// a message, or those in another attribute.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(aligned(length), len(b)):]
		}
	}
}

// aligned rounds a length up to where the next message or attribute begins.
func aligned(n int) int { return (n + 3) &^ 3 }

// number reads an attribute of one, two or four bytes; 0 if it is too short.
func number(b []byte) int {
	switch len(b) {
	case 1:
		return int(b[0])
	case 2:
		return int(binary.NativeEndian.Uint16(b))
	}
	if len(b) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}

// text reads an attribute that is a C string.
func text(b []byte) string { return unix.ByteSliceToString(b) }

// raw is the fixed header of a request, as bytes.
type raw []byte

func (r raw) Len() int          { return len(r) }
func (r raw) Serialize() []byte { return r }

// request makes a request with a fixed header.
func request(kind, flags int, header []byte) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddData(raw(header))
	return req
}

func uint32s(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
