package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Dict is a map that keeps the order of insertion. The zero value is empty and ready. It must not
// be changed while a Render uses it.
type Dict struct {
	entries []entry
	index   map[string]int // hash to position; nil while there are few entries
}

type entry struct {
	hash  string // equal for keys that Python holds equal
	key   Value
	value Value
}

// linearEntries is the number of entries up to which scanning beats hashing.
const linearEntries = 8

// NewDict returns an empty Dict.
func NewDict() *Dict { return &Dict{} }

// Len is the number of entries.
func (d *Dict) Len() int {
	if d == nil {
		return 0
	}
	return len(d.entries)
}

// Set adds or replaces the value of a key. A replaced value keeps the key's place.
func (d *Dict) Set(key string, v Value) {
	k := String(key).(text)
	d.set("s"+k.s, k, orNone(v))
}

// Get returns the value of a key.
func (d *Dict) Get(key string) (Value, bool) {
	if i := d.find("s", key); i >= 0 {
		return d.entries[i].value, true
	}
	return nil, false
}

// find returns the position of the key with the hash prefix+rest, or -1.
func (d *Dict) find(prefix, rest string) int {
	if d == nil {
		return -1
	}
	if d.index != nil {
		if i, ok := d.index[prefix+rest]; ok {
			return i
		}
		return -1
	}
	for i := range d.entries {
		h := d.entries[i].hash
		if len(h) == len(prefix)+len(rest) && h[len(prefix):] == rest && h[:len(prefix)] == prefix {
			return i
		}
	}
	return -1
}

func (d *Dict) set(hash string, key, v Value) {
	if i := d.find("", hash); i >= 0 {
		d.entries[i].value = v
		return
	}
	d.entries = append(d.entries, entry{hash, key, v})
	switch n := len(d.entries); {
	case d.index != nil:
		d.index[hash] = n - 1
	case n > linearEntries:
		d.index = make(map[string]int, 2*n)
		for i := range d.entries {
			d.index[d.entries[i].hash] = i
		}
	}
}

func (d *Dict) keys() []Value {
	keys := make([]Value, d.Len())
	for i := range keys {
		keys[i] = d.entries[i].key
	}
	return keys
}

func (d *Dict) values() []Value {
	values := make([]Value, d.Len())
	for i := range values {
		values[i] = d.entries[i].value
	}
	return values
}

// pairs returns the entries as tuples.
func (d *Dict) pairs() []Value {
	pairs := make([]Value, d.Len())
	for i := range pairs {
		pairs[i] = &tuple{items: []Value{d.entries[i].key, d.entries[i].value}}
	}
	return pairs
}

// get looks a template's value up as a key.
func (m *machine) get(d *Dict, key Value) (Value, bool, error) {
	if t, ok := key.(text); ok {
		v, ok := d.Get(t.s)
		return v, ok, m.step(len(t.s) / 64)
	}
	h, err := m.hash(key, 0)
	if err != nil {
		return nil, false, err
	}
	if i := d.find("", h); i >= 0 {
		return d.entries[i].value, true, nil
	}
	return nil, false, nil
}

// put adds a template's value as a key to a Dict that is still being made.
func (m *machine) put(d *Dict, key, v Value) error {
	h, err := m.hash(key, 0)
	if err != nil {
		return err
	}
	if err := m.charge(len(h) + 64); err != nil {
		return err
	}
	d.set(h, key, v)
	return nil
}

var errUnhashable = errors.New("unhashable type")

// hash returns a string that is equal for values that Python holds equal: 1, 1.0 and True are one
// key. Marks do not count.
func (m *machine) hash(v Value, depth int) (string, error) {
	if depth > maxValueDepth {
		return "", errValueDepth
	}
	if err := m.step(1); err != nil {
		return "", err
	}
	switch v := v.(type) {
	case text:
		return "s" + v.s, m.step(len(v.s) / 64)
	case none:
		return "N", nil
	case boolean:
		if v {
			return "i1", nil
		}
		return "i0", nil
	case integer:
		return "i" + strconv.FormatInt(int64(v), 10), nil
	case bigint:
		return "i" + v.String(), nil
	case float:
		return hashFloat(float64(v)), nil
	case undefined:
		return "u", nil
	case *tuple:
		var b strings.Builder
		b.WriteByte('t')
		for _, item := range v.items {
			h, err := m.hash(item, depth+1)
			if err != nil {
				return "", err
			}
			if err := m.charge(len(h) + 8); err != nil {
				return "", err
			}
			b.WriteString(strconv.Itoa(len(h)) + ":" + h)
		}
		return b.String(), nil
	}
	return "", fmt.Errorf("%w: '%s'", errUnhashable, v.kind())
}

func hashFloat(f float64) string {
	if f == math.Trunc(f) && !math.IsInf(f, 0) {
		i, _ := big.NewFloat(f).Int(nil)
		return "i" + i.String()
	}
	return "f" + strconv.FormatFloat(f, 'g', -1, 64)
}
