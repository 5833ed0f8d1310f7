package facts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// maxJSON bounds facts in JSON, in bytes; 50 addresses make about 2 KiB.
const maxJSON = 1 << 20

// required are the fields that every ENI has. A document may leave out empty lists,
// and what follows from the rest: index, gateway, table, metric, priority, mark,
// mark_mask.
var required = []string{"name", "mac", "id", "device_number"}

// document is an ENI in JSON, which has its number under four names.
type document struct {
	ENI
	Table    int  `json:"table"`
	Metric   int  `json:"metric"`
	Priority int  `json:"priority"`
	Mark     Mark `json:"mark"`
	MarkMask Mark `json:"mark_mask"`
}

func documentOf(e ENI) document {
	return document{ENI: e, Table: e.Table(), Metric: e.Metric(), Priority: e.Priority(), Mark: e.Mark(), MarkMask: e.MarkMask}
}

// Decode reads facts in the format of Encode: JSON objects, one after the
// other, each an ENI. Its errors name the field that is unknown, appears twice, has
// a value of the wrong type, or contradicts another one.
func Decode(r io.Reader, n Numbers) ([]ENI, error) { return decode(r, n, nil) }

// decode puts unknown fields into more; if that is nil, they are errors.
func decode(r io.Reader, n Numbers, more map[string]json.RawMessage) ([]ENI, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxJSON {
		return nil, fmt.Errorf("more than %d bytes of facts", maxJSON)
	}
	var enis []ENI
	dec := json.NewDecoder(bytes.NewReader(data))
	for dec.More() {
		e, err := decodeOne(dec, n, more)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", 1+bytes.Count(data[:dec.InputOffset()], []byte("\n")), plain(err))
		}
		if slices.ContainsFunc(enis, func(o ENI) bool { return o.Name == e.Name }) {
			return nil, fmt.Errorf("%s has facts twice", e.Name)
		}
		enis = append(enis, e)
	}
	// More is false at the end, and before a bracket that closes nothing.
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something other than a JSON object follows the facts")
	}
	if len(enis) == 0 {
		return nil, errors.New("no facts: expected a JSON object for each ENI")
	}
	return enis, nil
}

func decodeOne(dec *json.Decoder, n Numbers, more map[string]json.RawMessage) (ENI, error) {
	var given document
	seen, err := decodeFields(dec, &given, more)
	if err != nil {
		return given.ENI, err
	}
	for _, name := range required {
		if !slices.Contains(seen, name) {
			return given.ENI, fieldErrorf(name, "missing")
		}
	}
	whole := given.ENI
	if err := whole.finish(n); err != nil {
		return whole, err
	}
	return whole, checkGiven(given, whole, seen)
}

// decodeFields reads an object, and returns the names of its fields. It goes field by
// field, since json.Unmarshal keeps the last of two values, and does not name a field
// whose type unmarshals itself.
func decodeFields(dec *json.Decoder, given *document, more map[string]json.RawMessage) (seen []string, err error) {
	if t, err := dec.Token(); err != nil {
		return nil, err
	} else if t != json.Delim('{') {
		return nil, errors.New("expected a JSON object for each ENI")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		field, label := fieldOf(given, name), name
		if !field.IsValid() {
			label = quoted(name)
		}
		switch {
		case slices.Contains(seen, name):
			return nil, fieldErrorf(label, "appears twice")
		case !field.IsValid() && more == nil:
			return nil, fieldErrorf(label, "unknown field")
		}
		seen = append(seen, name)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		if !field.IsValid() {
			more[name] = raw
		} else if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil || isNull(raw, field) {
			return nil, fieldErrorf(name, "%s is not %s", clipped(raw), wanted(field))
		}
	}
	_, err = dec.Token() // the closing brace
	return seen, err
}

// checkGiven checks the given fields that follow from others. Table, metric, priority and
// mark also follow from the settings. Facts may have been printed under another BASE, so
// those four only have to agree with each other. The primary may have its own priority.
func checkGiven(given document, whole ENI, seen []string) error {
	if slices.Contains(seen, "index") && given.Index != whole.Index {
		return fieldErrorf("index", "%d, but %s has %d", given.Index, whole.Name, whole.Index)
	}
	if slices.Contains(seen, "gateway") && given.Gateway != whole.Gateway {
		return fieldErrorf("gateway", "%s, but the subnet %s has %s", given.Gateway, whole.Subnet, whole.Gateway)
	}
	if slices.Contains(seen, "mark_mask") && given.MarkMask == 0 {
		return fieldErrorf("mark_mask", "0x0 has no bit for a mark")
	}
	first, number := "", 0
	for _, f := range []struct {
		name  string
		value int
	}{{"table", given.Table}, {"metric", given.Metric}, {"priority", given.Priority}, {"mark", int(given.Mark)}} {
		switch {
		case !slices.Contains(seen, f.name), f.name == "priority" && f.value == PrimaryPriority && whole.Primary:
		case first == "":
			first, number = f.name, f.value
		case f.value != number:
			return fieldErrorf(f.name, "%d, but %s is %d; they have to be the same", f.value, first, number)
		}
	}
	return nil
}

// isNull reports whether a field other than a list is null, which encoding/json
// would ignore.
func isNull(raw json.RawMessage, field reflect.Value) bool {
	return string(raw) == "null" && field.Kind() != reflect.Slice
}

// fieldOf returns the field of a document with exactly this JSON name.
func fieldOf(d *document, name string) reflect.Value {
	index, ok := fields()[name]
	if !ok {
		return reflect.Value{}
	}
	return reflect.ValueOf(d).Elem().FieldByIndex(index)
}

// fields has the places of a document's fields by their JSON names. Finding them costs
// more than all the rest of reading a file of facts.
var fields = sync.OnceValue(func() map[string][]int {
	found := make(map[string][]int)
	for _, f := range reflect.VisibleFields(reflect.TypeFor[document]()) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "" && tag != "-" && !f.Anonymous {
			found[tag] = f.Index
		}
	}
	return found
})

// wanted says what kind of value a field takes.
func wanted(field reflect.Value) string {
	words := map[string]string{
		"string": "a string", "int": "a whole number", "bool": "true or false",
		"facts.MAC": `a MAC address such as "02:00:00:00:01:20"`, "facts.Mark": `a mark such as "0x3e9"`,
		"netip.Addr": `an address such as "10.0.1.20"`, "netip.Prefix": `a block such as "10.0.1.0/24"`,
		"[]netip.Addr": `a list of addresses such as ["10.0.1.20"]`, "[]netip.Prefix": `a list of blocks such as ["10.0.1.0/24"]`,
	}
	return words[field.Type().String()]
}

// clipped shortens a piece of JSON to fit into one line of a message.
func clipped(raw json.RawMessage) string {
	var line bytes.Buffer
	if json.Compact(&line, raw) != nil || line.Len() > 80 {
		return fmt.Sprintf("a value of %d bytes", len(raw))
	}
	// Other characters are harmless in JSON, but perhaps not on a terminal.
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, line.String())
}

// plain puts errors of encoding/json into the reader's words.
func plain(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON ends too early")
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON: %w", err)
	}
	return err
}

// Encode writes facts for people and for Decode: one ENI as an indented object, several
// with one object a line.
func Encode(w io.Writer, enis []ENI) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if len(enis) == 1 {
		enc.SetIndent("", "  ")
	}
	for _, e := range enis {
		if err := enc.Encode(documentOf(e)); err != nil {
			return err
		}
	}
	return nil
}
