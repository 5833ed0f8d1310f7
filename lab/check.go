package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// checks are the router's rules for the frames of all ENIs. A frame from a port goes
// to the chain of that port's ENI.
//
// The router remembers the kind of each dropped frame, so that a failing test can say
// more than a number.
const checks = `
table bridge vpc {
	map ports { type ifname : verdict; }
	set addrs { type ifname . ipv4_addr; }
	set addrs6 { type ifname . ipv6_addr; }
	set dropped { typeof iifname . ip saddr . ip daddr . ip protocol; flags dynamic; size 1024; counter; }
	chain prerouting {
		type filter hook prerouting priority filter
		iifname vmap @ports
	}
	# The router knows who has which address: its question for one goes to that
	# ENI, where on an Ethernet it would go to all of the subnet.
	chain output {
		type filter hook output priority filter
		arp operation request oifname . arp daddr ip != @addrs drop
	}
}
`

// Counters count an ENI's frames, as they come from the instance.
type Counters struct {
	Sent int // IPv4 packets that passed

	// Dropped frames.
	ForeignSource int // IP packets from an address that is not the ENI's
	ForeignARP    int // ARP in the name of such an address
	ForeignDHCP   int // DHCP requests for another MAC (chaddr)
	ForeignMAC    int // frames from another MAC
}

// Dropped is how many frames did not get further than the ENI's port.
func (c Counters) Dropped() int {
	return c.ForeignSource + c.ForeignARP + c.ForeignDHCP + c.ForeignMAC
}

// addChecks makes an ENI's counters and its chain.
func (v *VPC) addChecks(e *ENI) error {
	// The client's hardware address is 28 bytes into a DHCP message, which
	// begins 8 bytes into UDP.
	var addrs []string
	for _, addr := range e.addrs {
		addrs = append(addrs, e.element(addr))
	}
	six := ""
	if e.IPv6.IsValid() {
		six = "add element bridge vpc addrs6 { " + e.element(e.IPv6.String()) + " }"
	}
	return v.nft(strings.NewReplacer(
		"ENI", e.port, "MAC", e.MAC, "CHADDR", "0x"+strings.ReplaceAll(e.MAC, ":", ""),
		"ADDRS", strings.Join(addrs, ", "), "ADDR6", six,
	).Replace(`
table bridge vpc {
	counter ENI-sent {}
	counter ENI-source {}
	counter ENI-arp {}
	counter ENI-dhcp {}
	counter ENI-mac {}
	chain ENI-drop {
		update @dropped { iifname . ip saddr . ip daddr . ip protocol }
		drop
	}
	chain ENI {
		ether saddr != MAC counter name ENI-mac goto ENI-drop
		udp dport 67 @th,288,48 != CHADDR counter name ENI-dhcp goto ENI-drop
		ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
		ether type arp arp saddr ip != 0.0.0.0 iifname . arp saddr ip != @addrs counter name ENI-arp drop
		ether type ip iifname . ip saddr != @addrs counter name ENI-source goto ENI-drop
		ether type ip counter name ENI-sent
		ip6 saddr { ::, fe80::/10 } accept
		ether type ip6 iifname . ip6 saddr != @addrs6 counter name ENI-source drop
	}
}
add element bridge vpc addrs { ADDRS }
ADDR6
add element bridge vpc ports { "ENI" : jump ENI }
`))
}

// element is an address in the set of all ENIs' addresses.
func (e *ENI) element(addr string) string { return fmt.Sprintf("%q . %s", e.port, addr) }

// nftList has the router's counters and its set of dropped frames in nft's JSON:
// libnftables-json(5).
type nftList struct {
	Nftables []struct {
		Counter *struct {
			Name    string
			Packets int
		}
		Set *struct {
			Name string
			Elem json.RawMessage
		}
	}
}

// nftDropped is the set of dropped frames: from where to where.
type nftDropped []struct {
	Elem struct {
		Val     struct{ Concat []any }
		Counter struct{ Packets int }
	}
}

func (v *VPC) list(ctx context.Context) (nftList, error) {
	var list nftList
	out, err := v.routerRun(ctx, Cmd{Args: []string{"nft", "-j", "list", "table", "bridge", "vpc"}})
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil {
		return list, fmt.Errorf("cannot read counters: %w", err)
	}
	return list, nil
}

// Counters returns an ENI's counters since it was made, or since
// [VPC.ResetCounters].
func (e *ENI) Counters(tb TB) Counters {
	tb.Helper()
	list, err := e.vpc.list(tb.Context())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	var c Counters
	for _, item := range list.Nftables {
		if item.Counter == nil {
			continue
		}
		switch item.Counter.Name {
		case e.port + "-sent":
			c.Sent = item.Counter.Packets
		case e.port + "-source":
			c.ForeignSource = item.Counter.Packets
		case e.port + "-arp":
			c.ForeignARP = item.Counter.Packets
		case e.port + "-dhcp":
			c.ForeignDHCP = item.Counter.Packets
		case e.port + "-mac":
			c.ForeignMAC = item.Counter.Packets
		}
	}
	return c
}

// Dropped lists the frames that were dropped at all ENIs, one line for each ENI and
// cause and for each kind of frame, or returns "".
func (v *VPC) Dropped(tb TB) string {
	tb.Helper()
	text, err := v.dropped(tb.Context())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return text
}

func (v *VPC) dropped(ctx context.Context) (string, error) {
	list, err := v.list(ctx)
	if err != nil {
		return "", err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	who := map[string]string{}
	for _, e := range v.enis {
		who[e.port] = e.first
	}
	var lines []string
	for _, item := range list.Nftables {
		if c := item.Counter; c != nil && c.Packets > 0 {
			if port, cause, _ := strings.Cut(c.Name, "-"); cause != "sent" {
				lines = append(lines, fmt.Sprintf("ENI %s: dropped for its %s: %d\n", who[port], cause, c.Packets))
			}
		}
		if s := item.Set; s != nil && s.Name == "dropped" {
			var frames nftDropped
			if err := json.Unmarshal(s.Elem, &frames); s.Elem != nil && err != nil {
				return "", fmt.Errorf("cannot read the dropped frames: %w", err)
			}
			for _, el := range frames {
				if f := el.Elem.Val.Concat; len(f) == 4 {
					lines = append(lines, fmt.Sprintf("ENI %s: from %v to %v, protocol %v: %d\n",
						who[fmt.Sprint(f[0])], f[1], f[2], f[3], el.Elem.Counter.Packets))
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), nil
}

// ResetCounters sets all counters to 0.
func (v *VPC) ResetCounters(tb TB) {
	tb.Helper()
	_, err := v.routerRun(tb.Context(), Cmd{Args: []string{"nft", "reset counters table bridge vpc; flush set bridge vpc dropped"}})
	if err != nil {
		tb.Fatalf("cannot reset counters: %v", err)
	}
}
