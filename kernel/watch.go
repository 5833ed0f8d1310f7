package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Watch is a watch for changes.
type Watch struct {
	// C has a token if something has changed since the last token was taken. It is
	// closed when the watch ends.
	C <-chan struct{}
	// Firewall has a token if the rules of iptables' mangle table have changed since the
	// last one was taken. It is nil if the kernel does not tell.
	Firewall <-chan struct{}
	// Leases has a token if an IPv4 address with a lifetime was added or written anew, as a
	// DHCP client does with each lease and renewal.
	Leases <-chan struct{}
	err    error
}

// Err says why C is closed; nil if the context has ended. Call it only once C is
// closed.
func (w *Watch) Err() error { return w.err }

// watched are the netlink groups of all that a look reads: links, their settings (such as
// rp_filter), addresses, routes and rules. Of IPv6 there are only the addresses: an interface
// gets one when somebody switches IPv6 on.
const watched = 1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_NETCONF-1) | 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV4_RULE-1)

// Watch listens to the kernel until ctx ends. A token says only that something has
// changed. So a burst of changes makes one token, as do events that the kernel dropped
// because nobody read them in time. There is no token for what was before: call Watch
// first, then look, and look again at each token.
func (k *Kernel) Watch(ctx context.Context) (*Watch, error) {
	f, err := listen(watched)
	if err != nil {
		return nil, err
	}
	w := watch(ctx, f)
	w.Firewall = watchFirewall(ctx)
	return w, nil
}

func watch(ctx context.Context, f *os.File) *Watch {
	c, leases := make(chan struct{}, 1), make(chan struct{}, 1)
	w := &Watch{C: c, Leases: leases}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer close(c)
		defer f.Close()
		defer stop()
		buf := make([]byte, 64<<10)
		for {
			// ENOBUFS: there were more changes than the socket has room for. It goes on
			// with the next ones.
			n, err := f.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				if ctx.Err() == nil {
					w.err = err
				}
				return
			}
			if err != nil || leased(buf[:n]) {
				token(leases)
			}
			token(c)
		}
	}()
	return w
}

// leased reports whether a message is of an IPv4 address with a lifetime that is there:
// netlink(7), rtnetlink(7).
func leased(message []byte) bool {
	if len(message) < unix.SizeofNlMsghdr+unix.SizeofIfAddrmsg {
		return false
	}
	addr := message[unix.SizeofNlMsghdr:] // family, prefix length, flags, ...
	return binary.NativeEndian.Uint16(message[4:]) == unix.RTM_NEWADDR && addr[0] == unix.AF_INET && addr[2]&unix.IFA_F_PERMANENT == 0
}

func listen(groups uint32) (*os.File, error) { return listenTo(unix.NETLINK_ROUTE, groups) }

func listenTo(protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
