package facts

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// newerJSON is facts of a newer version, with unknown fields.
const newerJSON = `{"name": "eth1", "zeal": 1.50, "mac": "02:00:00:00:01:20", "id": "eni-0123456789abcdef1",
	"device_number": 1, "ipv4": ["10.0.1.20", "10.0.1.21"], "subnet": "10.0.1.0/24",
	"flags": {"x<y": [null, "\u00e4"]}}`

// Remembered facts keep the unknown fields of a newer version. In other facts unknown
// fields are errors.
func TestKept(t *testing.T) {
	k, err := DecodeKept(strings.NewReader(newerJSON), DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	enis, err := Decode(strings.NewReader(eth1JSON), DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(k.ENI, enis[0]) || !slices.Equal(k.Unknown(), []string{"flags", "zeal"}) {
		t.Errorf("%+v, unknown %q", k.ENI, k.Unknown())
	}
	if _, err := Decode(strings.NewReader(newerJSON), DefaultNumbers); err == nil || !strings.Contains(err.Error(), `"zeal": unknown field`) {
		t.Errorf("strictly: %v", err)
	}

	changed := k.ENI.Clone()
	changed.IPv4 = changed.IPv4[:1]
	first := encoded(t, k.With(changed))
	again, err := DecodeKept(strings.NewReader(first), DefaultNumbers)
	if err != nil {
		t.Fatalf("%v\n%s", err, first)
	}
	if !reflect.DeepEqual(again.ENI, changed) || encoded(t, again) != first {
		t.Errorf("%s became %s", first, encoded(t, again))
	}
	for _, want := range []string{`"zeal": 1.50`, `"flags": {"x<y":[null,"\u00e4"]}`} {
		if !strings.Contains(first, want) {
			t.Errorf("%s has no %s", first, want)
		}
	}

	other := changed
	other.ID = "eni-0123456789abcdef2"
	if got := k.With(other).Unknown(); len(got) > 0 {
		t.Errorf("another ENI has %q", got)
	}
}

// Without unknown fields Kept.Encode writes the same bytes as Encode.
func TestKeptPlain(t *testing.T) {
	k, err := DecodeKept(strings.NewReader(eth1JSON), DefaultNumbers)
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if err := Encode(&plain, []ENI{k.ENI}); err != nil {
		t.Fatal(err)
	}
	if got := encoded(t, k); got != plain.String() {
		t.Errorf("%s is not %s", got, plain.String())
	}
}

func TestKeptRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"twice":         strings.Replace(newerJSON, `"flags"`, `"zeal"`, 1),
		"a known twice": strings.Replace(newerJSON, `"zeal"`, `"name"`, 1),
		"wrong value":   strings.Replace(newerJSON, "10.0.1.21", "10.0.2.21", 1),
		"cut off":       newerJSON[:40],
		"two ENIs":      newerJSON + strings.ReplaceAll(newerJSON, "eth1", "eth2"),
		"nothing":       "",
	} {
		if k, err := DecodeKept(strings.NewReader(text), DefaultNumbers); err == nil {
			t.Errorf("%s: took %+v", name, k)
		}
	}
}

// No input leads to a panic. Remembered facts stay the same when encoded and decoded again.
func FuzzKept(f *testing.F) {
	f.Add([]byte(eth1JSON))
	f.Add([]byte(newerJSON))
	f.Add([]byte(strings.Replace(newerJSON, `"zeal"`, `"\n\u0000}"`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := DecodeKept(bytes.NewReader(data), DefaultNumbers)
		if err != nil {
			return
		}
		first := encoded(t, k)
		again, err := DecodeKept(strings.NewReader(first), DefaultNumbers)
		if err != nil {
			t.Fatalf("what was kept is not read again: %v\n%s", err, first)
		}
		if second := encoded(t, again); second != first || !slices.Equal(again.Unknown(), k.Unknown()) {
			t.Fatalf("%s became %s", first, second)
		}
		mustBeSafe(t, again.ENI)
	})
}

func encoded(t *testing.T, k Kept) string {
	t.Helper()
	var text bytes.Buffer
	if err := k.Encode(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
