package kernel

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// The header of nftables' messages, and the attribute that has the name of the table, in
// messages about tables, chains and rules alike: linux/netfilter/nf_tables.h.
const (
	sizeofNfGenMsg = 4
	nftaTable      = 1
)

// watchFirewall returns a channel that gets a token when nftables has added or deleted a
// rule of iptables' mangle table, or deleted a chain of it or the table. It returns nil if the
// kernel does not tell: it has no nftables, or CAP_NET_ADMIN is missing. iptables-legacy has
// no events.
func watchFirewall(ctx context.Context) <-chan struct{} {
	f, err := listenTo(unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1))
	if err != nil {
		return nil
	}
	c := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer f.Close()
		defer stop()
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			lost := errors.Is(err, unix.ENOBUFS)
			if err != nil && !lost {
				return // only the refresh looks at the firewall from now on
			}
			if lost || mangled(buf[:n]) {
				token(c)
			}
		}
	}()
	return c
}

// mangled reports whether a datagram says that the rules of the table ip mangle have
// changed. New rules count too: an old save, loaded on top of what is there, may double some.
// A set whose elements come and go does not count.
func mangled(b []byte) bool {
	for m := range messages(b) {
		if m.kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.data) < sizeofNfGenMsg || m.data[0] != unix.AF_INET {
			continue
		}
		switch m.kind & 0xff {
		case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_NEWRULE:
			for kind, value := range attributes(m.data[sizeofNfGenMsg:]) {
				if kind == nftaTable && text(value) == "mangle" {
					return true
				}
			}
		}
	}
	return false
}

// token puts a token into a channel that has none.
func token(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
