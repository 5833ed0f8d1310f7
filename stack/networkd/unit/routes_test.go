package unit

import (
	"net/netip"
	"slices"
	"testing"

	"ec2net/iproute"
)

// Routes with a table of their own, as networkd makes them.
func TestRoutes(t *testing.T) {
	got := Routes([]byte(`[Match]
Name=eth1
[Route]
Destination=10.0.1.0/24
Scope=link
Table=1001
[Route]
Gateway=10.0.1.1
GatewayOnLink=yes
Table=1001
[Route]
Destination=192.0.3.7
Gateway=10.0.1.1
GatewayOnLink=On
Table=1001
[Route]
Destination=192.0.4.0/24
Gateway=10.0.1.1
GatewayOnLink=maybe
Table=1001
[Route]
Gateway=_dhcp4
Table=1001
[Route]
Destination=192.0.2.0/24
Gateway=10.0.1.7
`), "eth1")
	want := []iproute.Route{
		{Table: 1001, Dst: netip.MustParsePrefix("10.0.1.0/24"), Dev: "eth1", Protocol: 4},
		{Table: 1001, Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.1.1"), Dev: "eth1", OnLink: true, Protocol: 4},
		{Table: 1001, Dst: netip.MustParsePrefix("192.0.3.7/32"), Gateway: netip.MustParseAddr("10.0.1.1"), Dev: "eth1", OnLink: true, Protocol: 4},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}
