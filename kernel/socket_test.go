package kernel

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// toPeer returns a Kernel whose other end is not the kernel but another socket of this
// process: that answers each request with the datagrams that answer returns.
func toPeer(t *testing.T, answer func(request message) [][]byte) *Kernel {
	t.Helper()
	peer, err := openSocket(unix.NETLINK_USERSOCK, time.Minute)
	check(t, err)
	s, err := openSocket(unix.NETLINK_USERSOCK, 50*time.Millisecond)
	check(t, err)
	s.to.Pid = peer.pid
	peer.to.Pid = s.pid
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for {
			n, err := peer.receive()
			if err != nil {
				return
			}
			for m := range messages(peer.buf[:n]) {
				if m.kind == unix.NLMSG_NOOP { // the test has ended
					return
				}
				m.pid = s.pid // as in the kernel's answers
				for _, a := range answer(m) {
					_ = peer.send(a)
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = s.send(request(unix.NLMSG_NOOP, 0, nil).Serialize())
		<-answered
		s.close()
		peer.close()
	})
	return &Kernel{route: s, IsENI: func(plan.Link) bool { return false }}
}

func datagram(kind, flags int, seq, pid uint32, data []byte) []byte {
	req := request(kind, flags, data)
	req.Flags, req.Seq, req.Pid = uint16(flags), seq, pid
	return req.Serialize()
}

// A request ends that the kernel never answers, or stops answering.
func TestNoAnswer(t *testing.T) {
	rule := datagram(unix.RTM_NEWRULE, unix.NLM_F_MULTI, 0, 0, []byte{0: unix.AF_INET, 7: actionTable, 11: 0})
	for name, answer := range map[string]func(message) [][]byte{
		"nothing": func(message) [][]byte { return nil },
		"half a list": func(m message) [][]byte {
			half := append([]byte(nil), rule...)
			binary.NativeEndian.PutUint32(half[8:], m.seq)
			binary.NativeEndian.PutUint32(half[12:], m.pid)
			return [][]byte{half}
		},
		"an earlier request": func(m message) [][]byte {
			return [][]byte{datagram(unix.NLMSG_ERROR, 0, m.seq-1, m.pid, make([]byte, 4))}
		},
		"no message": func(message) [][]byte { return [][]byte{{1, 2, 3}} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := toPeer(t, answer)
			for what, ask := range map[string]func() error{
				"look":   func() error { _, err := k.Look(nil); return err },
				"rules":  func() error { _, err := k.rules(unix.AF_INET); return err },
				"change": func() error { return k.Apply(plan.SetGroup{Group: 7}) },
				"one":    func() error { _, err := k.named("eth1"); return err },
			} {
				start := time.Now()
				err := ask()
				if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 10*time.Second {
					t.Errorf("%s: %v after %v", what, err, time.Since(start))
				}
			}
		})
	}
}

// After a request that was not answered in time, the next one gets its own answer, not
// the earlier one's.
func TestLateAnswer(t *testing.T) {
	var late []byte
	k := toPeer(t, func(m message) [][]byte {
		if late == nil {
			late = datagram(unix.NLMSG_ERROR, 0, m.seq, m.pid, make([]byte, 4))
			return nil
		}
		failed := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)
		return [][]byte{late, datagram(unix.NLMSG_ERROR, 0, m.seq, m.pid, failed)}
	})
	if err := k.Apply(plan.SetGroup{Group: 7}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if err := k.Apply(plan.SetGroup{Group: 7}); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
}

// Every socket for requests has a limit.
func TestLimits(t *testing.T) {
	k := inNetns(t)
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		limit, err := unix.GetsockoptTimeval(k.route.fd, unix.SOL_SOCKET, option)
		check(t, err)
		if d := time.Duration(limit.Nano()); d <= 0 || d > 5*time.Second {
			t.Errorf("option %d: %v", option, d)
		}
	}
}
