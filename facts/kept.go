package facts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Kept is remembered facts. A newer version of ec2net may have written them, with fields
// that this one does not know: it keeps those, and does not use them.
type Kept struct {
	ENI
	more map[string]json.RawMessage
}

// DecodeKept reads remembered facts. Unlike Decode it takes unknown fields.
func DecodeKept(r io.Reader, n Numbers) (Kept, error) {
	more := make(map[string]json.RawMessage)
	enis, err := decode(r, n, more)
	if err == nil && len(enis) != 1 {
		err = fmt.Errorf("the facts of %d ENIs, expected one", len(enis))
	}
	if err != nil {
		return Kept{}, err
	}
	return Kept{enis[0], more}, nil
}

// With returns newer facts of the interface, to remember instead of k. If they are of the
// same ENI, they keep the unknown fields.
func (k Kept) With(e ENI) Kept {
	if k.MAC != e.MAC || k.ID != e.ID {
		return Kept{ENI: e}
	}
	return Kept{e, k.more}
}

// Unknown lists the names of the unknown fields.
func (k Kept) Unknown() []string { return slices.Sorted(maps.Keys(k.more)) }

// Encode writes the facts as the function Encode does, then the unknown fields, one a
// line.
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
