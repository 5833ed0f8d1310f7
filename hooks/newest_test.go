package hooks

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ec2net/facts"
)

// slowly makes the next answer of IMDS a slow one: it is as of now, and comes after
// meanwhile.
func (m *machine) slowly(t *testing.T, meanwhile func()) {
	t.Helper()
	now := make(map[facts.MAC]facts.ENI)
	for mac, e := range m.vpc.enis {
		now[mac] = e.Clone()
	}
	m.vpc.asked = func() {
		m.vpc.asked = nil
		m.vpc.mu.Unlock() // others ask meanwhile
		meanwhile()
		m.vpc.mu.Lock()
		later := m.vpc.enis
		m.vpc.enis = now
		m.vpc.asked = func() { m.vpc.enis, m.vpc.asked = later, nil }
	}
}

// IMDS is slow to answer one process, and meanwhile answers another one with newer facts:
// the newer ones stay, whether they are of the same ENI or give an address to another.
func TestSlowAnswer(t *testing.T) {
	renew := func(t *testing.T, m *machine) { m.lease(t, "eth1", "RENEW", "10.0.1.20") }
	refresh := func(t *testing.T, m *machine) { check(t, m.Refresh(t.Context(), "eth1")) }
	all := func(t *testing.T, m *machine) { check(t, m.RefreshAll(t.Context())) }
	for what, event := range map[string]func(*testing.T, *machine){"lease": renew, "refresh": refresh, "refresh of all": all} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				two(t, m)
				// The same ENI: 10.0.1.21 goes, 10.0.1.22 comes.
				m.slowly(t, func() {
					m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
					m.lease(t, "eth1", "RENEW", "10.0.1.20")
				})
				event(t, m)
				same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.22/32"})

				// Another ENI: 10.0.1.23 comes, and moves on to eth2 at once.
				m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.23") })
				m.slowly(t, func() {
					m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20") })
					m.says(macs["eth2"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.30", "10.0.1.23") })
					m.lease(t, "eth2", "RENEW", "10.0.1.30")
				})
				event(t, m)
				same(t, "addresses of eth1", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24"})
				same(t, "addresses of eth2", m.addrsNow(t, "eth2"), []string{"10.0.1.23/32", "10.0.1.30/24"})
				m.served(t, "10.0.1.23", 2)
			})
		})
	}
}

// If a newer answer overtakes every answer, an event asks maxTries times, and then leaves it
// to the newer answers and the next event.
func TestOvertakenAgainAndAgain(t *testing.T) {
	for what, event := range map[string]func(*testing.T, *machine) error{
		"lease":   func(t *testing.T, m *machine) error { m.lease(t, "eth1", "RENEW", "10.0.1.20"); return nil },
		"refresh": func(t *testing.T, m *machine) error { return m.Refresh(t.Context(), "eth1") },
		"all":     func(t *testing.T, m *machine) error { return m.RefreshAll(t.Context()) },
	} {
		t.Run(what, func(t *testing.T) {
			onMachine(t, func(m *machine) {
				ready(t, m)
				m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
				asked := 0
				m.vpc.asked = func() {
					if asked++; asked > 50 {
						return
					}
					newer, err := facts.Renamed(m.vpc.enis[macs["eth1"]].Clone(), "eth1", m.Numbers)
					check(t, err)
					newer.IPv4 = append(newer.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(100 + asked)}))
					_, err = m.memory().keep(newer)
					check(t, err)
				}
				if err := event(t, m); err != nil {
					t.Error(err)
				}
				if asked > 10 {
					t.Errorf("asked IMDS %d times", asked)
				}
			})
		})
	}
}

// IMDS is slow to answer about an ENI that is attached, and one of its addresses moves to
// another ENI.
func TestSlowAnswerAtAttach(t *testing.T) {
	onMachine(t, func(m *machine) {
		ready(t, m)
		m.says(macs["eth2"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.30", "10.0.1.22") })
		m.slowly(t, func() {
			m.says(macs["eth2"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.30") })
			m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20", "10.0.1.22") })
			m.lease(t, "eth1", "RENEW", "10.0.1.20")
		})
		check(t, m.Add(t.Context(), "eth2"))
		m.address(t, "eth2", "10.0.1.30/24")
		m.vpc.err = errLate
		m.lease(t, "eth2", "BOUND", "10.0.1.30")
		m.served(t, "10.0.1.22", 1)
		same(t, "programs", m.ran, []string{"ifup eth1", "ifup eth2"})
	})
}

// served fails unless an address has exactly one rule, at the number of this ENI.
func (m *machine) served(t *testing.T, addr string, n int) {
	t.Helper()
	number := map[int]string{1: "1001", 2: "1002"}[n]
	var got []string
	for _, r := range m.rulesNow(t) {
		if strings.Contains(r, "from "+addr+" ") {
			got = append(got, r)
		}
	}
	same(t, "rules of "+addr, got, []string{"pref " + number + " from " + addr + " lookup " + number + " protocol 236"})
}

// An address moves to an ENI that has renewed. The old one renews while IMDS answers late
// or not at all: the address stays where it is.
func TestMovedStaysWithoutIMDS(t *testing.T) {
	for _, failure := range []error{errLate, errors.New("connection refused"), imdsSays(403), imdsSays(404)} {
		onMachine(t, func(m *machine) {
			two(t, m)
			m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.20") })
			m.says(macs["eth2"], func(e *facts.ENI) { e.IPv4 = addrs("10.0.1.30", "10.0.1.21") })
			m.lease(t, "eth2", "RENEW", "10.0.1.30")
			m.vpc.err = failure
			for _, reason := range []string{"RENEW", "EXPIRE", "BOUND"} {
				check(t, m.OnLease(t.Context(), Lease{"eth1", reason, netip.MustParseAddr("10.0.1.20")}))
				m.served(t, "10.0.1.21", 2)
				same(t, "addresses of the old one", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24"})
			}
			check(t, m.Scan(t.Context()))
			m.served(t, "10.0.1.21", 2)
		})
	}
}

// An ENI is detached, gets other addresses, and is attached again before IMDS knows it;
// one of its old addresses is another ENI's now. Also if that had the address before the
// ENI got it, so that it is new to neither.
func TestReattachedWithoutAnAddress(t *testing.T) {
	for _, before := range []bool{false, true} {
		onMachine(t, func(m *machine) {
			two(t, m)
			give := func(eth1, eth2 []netip.Addr) {
				m.says(macs["eth1"], func(e *facts.ENI) { e.IPv4 = eth1 })
				m.says(macs["eth2"], func(e *facts.ENI) { e.IPv4 = eth2 })
			}
			if before {
				give(addrs("10.0.1.20"), addrs("10.0.1.30", "10.0.1.21"))
				check(t, m.RefreshAll(t.Context()))
				give(addrs("10.0.1.20", "10.0.1.21"), addrs("10.0.1.30", "10.0.1.21"))
				m.lease(t, "eth1", "RENEW", "10.0.1.20")
				m.served(t, "10.0.1.21", 1)
			}
			m.pull(t, "eth1")
			check(t, m.RemoveIfGone(t.Context(), "eth1"))
			give(addrs("10.0.1.20", "10.0.1.22"), addrs("10.0.1.30", "10.0.1.21"))
			m.lease(t, "eth2", "RENEW", "10.0.1.30")
			m.served(t, "10.0.1.21", 2)

			known := m.vpc.enis[macs["eth1"]]
			delete(m.vpc.enis, macs["eth1"]) // 404
			m.plug(t, "eth1", macs["eth1"])
			m.later = nil
			check(t, m.Add(t.Context(), "eth1"))
			m.address(t, "eth1", "10.0.1.20/24")
			m.lease(t, "eth1", "BOUND", "10.0.1.20")
			m.served(t, "10.0.1.21", 2)
			same(t, "addresses meanwhile", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24"})
			if !slices.Contains(m.later, "eth1") {
				t.Error("nobody asks for the new device")
			}
			m.vpc.enis[macs["eth1"]] = known
			check(t, m.Refresh(t.Context(), "eth1"))
			m.served(t, "10.0.1.21", 2)
			same(t, "addresses", m.addrsNow(t, "eth1"), []string{"10.0.1.20/24", "10.0.1.22/32"})
		})
	}
}
