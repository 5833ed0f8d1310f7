package facts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Kept is an ENI as ec2net itself keeps it. A newer version may have kept it, with
// fields that this one does not know: nothing goes by them, and they stay.
type Kept struct {
	ENI
	more map[string]json.RawMessage
}

// DecodeKept reads the facts of one ENI that ec2net has kept. Unlike Decode it takes
// fields that it does not know.
func DecodeKept(r io.Reader, n Numbers) (Kept, error) {
	more := make(map[string]json.RawMessage)
	enis, err := decode(r, n, more)
	if err == nil && len(enis) != 1 {
		err = fmt.Errorf("the facts of %d ENIs, where one is kept", len(enis))
	}
	if err != nil {
		return Kept{}, err
	}
	return Kept{enis[0], more}, nil
}

// With is what is kept once there are newer facts of an interface. What this version
// does not know goes with the ENI that it was said of.
func (k Kept) With(e ENI) Kept {
	if k.MAC != e.MAC || k.ID != e.ID {
		return Kept{ENI: e}
	}
	return Kept{e, k.more}
}

// Unknown are the names of the fields that this version does not know.
func (k Kept) Unknown() []string { return slices.Sorted(maps.Keys(k.more)) }

// Encode writes the facts as the function Encode does, and each unknown field on a line
// behind the others.
func (k Kept) Encode(w io.Writer) error {
	var text bytes.Buffer
	if err := Encode(&text, []ENI{k.ENI}); err != nil {
		return err
	}
	if len(k.more) > 0 {
		text.Truncate(bytes.LastIndex(text.Bytes(), []byte("\n}")))
	}
	for _, name := range k.Unknown() {
		field, err := json.Marshal(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, ",\n  %s: ", field)
		if err := json.Compact(&text, k.more[name]); err != nil {
			return err
		}
	}
	if len(k.more) > 0 {
		text.WriteString("\n}\n")
	}
	_, err := text.WriteTo(w)
	return err
}
