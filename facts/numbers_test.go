package facts

import (
	"strings"
	"testing"
)

func TestIndex(t *testing.T) {
	for _, c := range []struct {
		name         string
		device, card int
		want         int
	}{
		{"eth0", 1, 0, 0}, {"eth1", 1, 0, 1}, {"eth7", 2, 0, 7}, {"eth12", 1, 3, 12},
		{"ens6", 1, 0, 1}, {"ens6", 2, 1, 102}, {"enp0s31f6", 15, 0, 15},
		{"eth01", 3, 0, 3}, // not the spelling of eth1
		{"eth", 5, 0, 5}, {"eth1x", 6, 0, 6}, {"myeth1", 8, 0, 8}, {"eth-1", 9, 0, 9},
	} {
		e, err := DefaultNumbers.of(ENI{Name: c.name, DeviceNumber: c.device, NetworkCard: c.card})
		if err != nil || e.Index != c.want || e.Table() != 1000+c.want {
			t.Errorf("%s, device %d of card %d: index %d, table %d, %v; want %d", c.name, c.device, c.card, e.Index, e.Table(), err, c.want)
		}
	}
}

func TestNumbersCheck(t *testing.T) {
	for _, c := range []struct {
		n    Numbers
		want string
	}{
		{DefaultNumbers, ""},
		{Numbers{Base: 10000, MarkMask: 0x3fff}, ""},
		{Numbers{Base: 256, MarkMask: 0xffff}, ""},
		{Numbers{Base: 255, MarkMask: 0xffff}, "base 255 is not within"},
		{Numbers{Base: 0, MarkMask: 0xffff}, "is not within"},
		{Numbers{Base: -1000, MarkMask: 0xffff}, "is not within"},
		{Numbers{Base: 32766, MarkMask: 0xffff}, "is not within"},
		{Numbers{Base: 20000, MarkMask: 0x3fff}, "does not fit under the mark mask"},
		{Numbers{Base: 1000, MarkMask: 0}, "does not fit under the mark mask"},
		{Numbers{Base: 1000, MarkMask: 0xff00}, "does not fit under the mark mask"},
	} {
		err := c.n.Check()
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.n, err, c.want)
		}
	}
}

func TestDistinct(t *testing.T) {
	one := ENI{Name: "eth1", Index: 1, Number: 1001}
	two := ENI{Name: "ens6", Index: 1, Number: 1001, ID: "eni-2", MAC: MAC{2}}
	if err := Distinct([]ENI{one, {Name: "eth2", Index: 2, ID: "eni-2", MAC: MAC{2}}}); err != nil {
		t.Error(err)
	}
	if err := Distinct([]ENI{one, {Name: "eth2", Index: 2, ID: "eni-2"}}); err == nil {
		t.Error("two ENIs with one MAC")
	}
	err := Distinct([]ENI{one, two})
	if err == nil || !strings.Contains(err.Error(), "eth1 and ens6 both have the index 1") {
		t.Errorf("%v", err)
	}
}

func TestParseMark(t *testing.T) {
	for s, want := range map[string]string{"0x3e9": "0x3e9", "1001": "0x3e9", "0": "0x0", "0xffffffff": "0xffffffff",
		"": "", "0x": "", "-1": "", "1_000": "", "0b1": "", "010": "", "0x1ffffffff": "", "0X3": "", "1 ": ""} {
		m, err := ParseMark(s)
		if (err == nil) != (want != "") || (err == nil && m.String() != want) {
			t.Errorf("%q: %v, %v; want %q", s, m, err, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"eth1", "ens6", "enp0s31f6", "a", "x-y_z", strings.Repeat("a", 15)} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "../x", "eth1;id", "eth1 ", "-eth1", "eth/1", "eth:1", "$(id)", "eth1\n", "\u00e9th1", "all", "default", "lo", "ethN", "kernel", "eth1.100", strings.Repeat("a", 16)} {
		if err := CheckName(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}
