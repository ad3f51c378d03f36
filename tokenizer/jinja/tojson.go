package jinja

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonStyle is how tojson writes, with the meaning of Python's json.dumps.
type jsonStyle struct {
	newline  string // with one level of indentation; "" writes all on one line
	indent   string
	comma    string
	colon    string
	ascii    bool
	sortKeys bool
}

// filterToJSON is tojson as Transformers defines it: no escapes for HTML.
func filterToJSON(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	style := jsonStyle{comma: ", ", colon: ": "}
	style.ascii, style.sortKeys = boolArg(b[0], false), boolArg(b[3], false)
	if err := m.jsonIndent(&style, b[1]); err != nil {
		return nil, err
	}
	if b[2] != nil && b[2] != Value(none{}) {
		pair, err := m.items(b[2])
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, typeError("tojson: separators must be two strings")
		}
		comma, ok1 := pair[0].(text)
		colon, ok2 := pair[1].(text)
		if !ok1 || !ok2 {
			return nil, typeError("tojson: separators must be two strings")
		}
		style.comma, style.colon = comma.s, colon.s
	}
	p := jsonPrinter{printer{m: m, clean: argsClean(a)}, style}
	if err := p.value(v, 0); err != nil {
		return nil, err
	}
	return p.text(), nil
}

// argsClean reports whether no argument is or directly holds untrusted text.
func argsClean(a args) bool {
	clean := func(v Value) bool {
		switch v := v.(type) {
		case text:
			return v.clean()
		case *list:
			return !slices.ContainsFunc(v.items, isForeign)
		case *tuple:
			return !slices.ContainsFunc(v.items, isForeign)
		}
		return true
	}
	for _, v := range a.pos {
		if !clean(v) {
			return false
		}
	}
	for _, kw := range a.kw {
		if !clean(kw.value) {
			return false
		}
	}
	return true
}

func isForeign(v Value) bool {
	t, ok := v.(text)
	return ok && !t.clean()
}

func (m *machine) jsonIndent(style *jsonStyle, v Value) error {
	switch v := v.(type) {
	case nil, none:
		return nil
	case text:
		style.indent = v.s
	default:
		n, err := intArg(v, 0)
		if err != nil {
			return err
		}
		t, err := m.repeat(own(" "), n)
		if err != nil {
			return err
		}
		style.indent = t.s
	}
	style.newline, style.comma = "\n", ","
	return nil
}

type jsonPrinter struct {
	printer
	jsonStyle
}

func (p *jsonPrinter) value(v Value, depth int) error {
	if err := p.enter(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case text:
		p.clean = p.clean && v.clean()
		return p.write(jsonString(v.s, p.ascii))
	case *list:
		return p.array(v.items, depth)
	case *tuple:
		return p.array(v.items, depth)
	case *Dict:
		return p.object(v, depth)
	case none, boolean, integer, bigint, float:
		s, err := jsonScalar(v)
		if err != nil {
			return err
		}
		return p.write(s)
	}
	return typeError("tojson: object of type %s is not JSON serializable", v.kind())
}

// jsonScalar prints a number or constant, which may also be a key.
func jsonScalar(v Value) (string, error) {
	switch v := v.(type) {
	case none:
		return "null", nil
	case boolean:
		if v {
			return "true", nil
		}
		return "false", nil
	case float:
		switch f := float64(v); {
		case math.IsNaN(f):
			return "NaN", nil
		case math.IsInf(f, 1):
			return "Infinity", nil
		case math.IsInf(f, -1):
			return "-Infinity", nil
		}
	}
	return reprScalar(v)
}

// line begins a new line at a depth, if the style has lines.
func (p *jsonPrinter) line(depth int) error {
	if p.newline == "" {
		return nil
	}
	if err := p.write(p.newline); err != nil {
		return err
	}
	for range depth {
		if err := p.write(p.indent); err != nil {
			return err
		}
	}
	return nil
}

// separate writes what stands before element i.
func (p *jsonPrinter) separate(i, depth int) error {
	if i > 0 {
		if err := p.write(p.comma); err != nil {
			return err
		}
	}
	return p.line(depth + 1)
}

func (p *jsonPrinter) array(items []Value, depth int) error {
	if len(items) == 0 {
		return p.write("[]")
	}
	if err := p.write("["); err != nil {
		return err
	}
	for i, item := range items {
		if err := p.separate(i, depth); err != nil {
			return err
		}
		if err := p.value(item, depth+1); err != nil {
			return err
		}
	}
	if err := p.line(depth); err != nil {
		return err
	}
	return p.write("]")
}

func (p *jsonPrinter) object(d *Dict, depth int) error {
	if d.Len() == 0 {
		return p.write("{}")
	}
	entries := d.entries
	if p.sortKeys {
		var err error
		if entries, err = p.sorted(entries); err != nil {
			return err
		}
	}
	if err := p.write("{"); err != nil {
		return err
	}
	for i, en := range entries {
		if err := p.separate(i, depth); err != nil {
			return err
		}
		if err := p.key(en.key); err != nil {
			return err
		}
		if err := p.write(p.colon); err != nil {
			return err
		}
		if err := p.value(en.value, depth+1); err != nil {
			return err
		}
	}
	if err := p.line(depth); err != nil {
		return err
	}
	return p.write("}")
}

func (p *jsonPrinter) sorted(entries []entry) ([]entry, error) {
	if err := p.m.chargeItems(len(entries)); err != nil {
		return nil, err
	}
	return stableSort(p.m, entries, false, func(en entry) Value { return en.key })
}

func (p *jsonPrinter) key(v Value) error {
	switch v := v.(type) {
	case text:
		p.clean = p.clean && v.clean()
		return p.write(jsonString(v.s, p.ascii))
	case none, boolean, integer, bigint, float:
		s, err := jsonScalar(v)
		if err != nil {
			return err
		}
		return p.write(`"` + s + `"`)
	}
	return typeError("tojson: keys must be str, int, float, bool or None, not %s", v.kind())
}

// jsonString quotes s.
func jsonString(s string, ascii bool) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('"')
	for _, r := range s {
		if i := strings.IndexRune("\"\\\n\r\t\b\f", r); i >= 0 {
			b.WriteByte('\\')
			b.WriteByte(`"\nrtbf`[i])
			continue
		}
		switch {
		case r < ' ' || ascii && r > '~' && r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case ascii && r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		case r < utf8.RuneSelf:
			b.WriteByte(byte(r))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
