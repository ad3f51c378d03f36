package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// attr is "of.name": an attribute or method first, then a key, as in Jinja2.
func (m *machine) attr(of Value, name string) (Value, error) {
	if u, ok := of.(undefined); ok {
		return nil, u.err()
	}
	v, ok, err := m.hostAttr(of, name)
	if err != nil || ok {
		return v, err
	}
	if d, ok := of.(*Dict); ok {
		if v, ok := d.Get(name); ok {
			return v, nil
		}
	}
	return missing(of, name), nil
}

// missing is what a failed look-up gives.
func missing(of Value, name string) undefined {
	return undefined{hint: fmt.Sprintf("'%s object' has no attribute '%s'", of.kind(), name)}
}

// hostAttr finds what Python would find with getattr, as far as the sandbox lets it through (R3).
func (m *machine) hostAttr(of Value, name string) (Value, bool, error) {
	if strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__") {
		hint := fmt.Sprintf("attribute '%s' of '%s' object", name, of.kind())
		return undefined{hint: hint, unsafe: true}, true, nil
	}
	switch of := of.(type) {
	case *loop:
		return m.loopAttr(of, name)
	case *namespace:
		v, ok := of.attrs.Get(name)
		return v, ok, nil
	case *cycle:
		v, ok := of.attr(name)
		return v, ok, nil
	case *macro:
		if name == "name" {
			return own(of.macroStmt.name), true, nil
		}
	case *tuple:
		if of.group && name == "grouper" {
			return of.items[0], true, nil
		}
		if of.group && name == "list" {
			return of.items[1], true, nil
		}
	}
	if v, ok := method(of, name); ok {
		return v, true, nil
	}
	return nil, false, nil
}

// item is "of[key]": a key or position first, then an attribute, as in Jinja2.
func (m *machine) item(of, key Value) (Value, error) {
	if u, ok := of.(undefined); ok {
		return nil, u.err()
	}
	if d, ok := of.(*Dict); ok {
		v, found, err := m.get(d, key)
		if found || err != nil && !errors.Is(err, errUnhashable) {
			return v, err
		}
	} else if _, ok := asInt(key); ok {
		i, _ := intArg(key, 0)
		if v, err := m.position(of, i); err != nil || v != nil {
			return v, err
		}
	}
	if name, ok := key.(text); ok {
		v, ok, err := m.hostAttr(of, name.s)
		if err != nil || ok {
			return v, err
		}
		return missing(of, name.s), nil
	}
	return undefined{hint: fmt.Sprintf("'%s object' has no such element", of.kind())}, nil
}

// position returns element i of a sequence, counted from its end if negative; nil if there is
// none.
func (m *machine) position(of Value, i int) (Value, error) {
	var items []Value
	switch of := of.(type) {
	case *list:
		items = of.items
	case *tuple:
		items = of.items
	case interval:
		n := of.length()
		if i < 0 {
			i += n
		}
		if i < 0 || i >= n {
			return nil, nil
		}
		return integer(of.start + i*of.step), nil
	case text:
		if err := m.step(len(of.s) / 64); err != nil {
			return nil, err
		}
		n := of.runeCount()
		if i < 0 {
			i += n
		}
		if i < 0 || i >= n {
			return nil, nil
		}
		at := byteIndex(of.s, i)
		_, size := utf8.DecodeRuneInString(of.s[at:])
		return of.slice(at, at+size), nil
	}
	if i < 0 {
		i += len(items)
	}
	if i < 0 || i >= len(items) {
		return nil, nil
	}
	return items[i], nil
}

// slice is "of[start:stop:step]".
func (m *machine) slice(of Value, bounds [3]Value) (Value, error) {
	if u, ok := of.(undefined); ok {
		return nil, u.err()
	}
	switch of.(type) {
	case text, *list, *tuple, interval:
	default:
		return nil, typeError("'%s' object cannot be sliced", of.kind())
	}
	n, _ := length(of)
	start, stop, step, err := sliceBounds(bounds, n)
	if err != nil {
		return nil, err
	}
	r := interval{start, stop, step}
	switch of := of.(type) {
	case *list:
		items, err := m.pick(of.items, r)
		return &list{items}, err
	case *tuple:
		items, err := m.pick(of.items, r)
		return &tuple{items: items}, err
	case interval:
		return interval{of.start + start*of.step, of.start + stop*of.step, of.step * step}, nil
	}
	return m.sliceText(of.(text), r)
}

// sliceBounds resolves a slice's bounds against a length as Python does.
func sliceBounds(bounds [3]Value, n int) (start, stop, step int, err error) {
	given := func(i, otherwise int) int {
		if _, ok := bounds[i].(none); ok || err != nil {
			return otherwise
		}
		var v int
		v, err = intArg(bounds[i], 0)
		return v
	}
	if step = given(2, 1); step == 0 {
		return 0, 0, 0, errors.New("slice step cannot be zero")
	}
	low, high := 0, n
	start, stop = 0, n
	if step < 0 {
		low, high = -1, n-1
		start, stop = n-1, -n-1
	}
	clamp := func(i int) int {
		if i < 0 {
			i += n
		}
		return max(low, min(i, high))
	}
	// A step longer than the value is as good as one of its length.
	step = max(-n-1, min(step, n+1))
	return clamp(given(0, start)), clamp(given(1, stop)), step, err
}

func (m *machine) pick(items []Value, r interval) ([]Value, error) {
	if r.step == 1 {
		if r.length() == 0 {
			return nil, m.step(1)
		}
		return items[r.start:r.stop:r.stop], m.step(1)
	}
	if err := m.chargeItems(r.length()); err != nil {
		return nil, err
	}
	picked := make([]Value, r.length())
	for i := range picked {
		picked[i] = items[r.start+i*r.step]
	}
	return picked, nil
}

func (m *machine) sliceText(t text, r interval) (Value, error) {
	if err := m.step(len(t.s) / 64); err != nil {
		return nil, err
	}
	if r.length() == 0 {
		return own(""), nil
	}
	if r.step == 1 {
		i := byteIndex(t.s, r.start)
		return t.slice(i, i+byteIndex(t.s[i:], r.stop-r.start)), nil
	}
	if err := m.chargeItems(4 * len(t.s)); err != nil {
		return nil, err
	}
	chars := t.chars()
	b := builder{m: m}
	for i := range r.length() {
		if err := b.add(chars[r.start+i*r.step].(text)); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}
