package jinja

import "math/big"

// Value is something a template can hold. Its implementations are this package's own: make one
// with String, Int, Float, Bool, None, List, NewDict or ParseJSON.
type Value interface {
	// kind is the Python name of the value's type.
	kind() string
}

type (
	none    struct{}
	boolean bool
	integer int64
	// bigint is an integer that does not fit into 64 bits; it is never changed.
	bigint struct{ *big.Int }
	float  float64

	// undefined is a missing variable, key or attribute. Printed it is empty; used it is an error.
	undefined struct {
		hint   string // what is missing, for the error
		unsafe bool   // the sandbox refused it, rather than it being missing
	}
	// list and tuple are never changed after they were made.
	list  struct{ items []Value }
	tuple struct {
		items []Value
		group bool // a result of groupby: items are also called grouper and list
	}
	// view is what a dict's keys, values and items return.
	view struct {
		name  string
		items []Value
	}
	// stream is the result of a lazy filter (map, select): it can be read once and is always true.
	stream struct{ items []Value }
	// interval is Python's range.
	interval struct{ start, stop, step int }

	// namespace is the only value a template can change.
	namespace struct{ attrs *Dict }

	// function is a built-in function or a bound method.
	function struct {
		name string
		call func(m *machine, a args) (Value, error)
	}
)

func (none) kind() string       { return "NoneType" }
func (boolean) kind() string    { return "bool" }
func (integer) kind() string    { return "int" }
func (bigint) kind() string     { return "int" }
func (float) kind() string      { return "float" }
func (undefined) kind() string  { return "Undefined" }
func (*list) kind() string      { return "list" }
func (*tuple) kind() string     { return "tuple" }
func (*view) kind() string      { return "dict view" }
func (*stream) kind() string    { return "generator" }
func (interval) kind() string   { return "range" }
func (*Dict) kind() string      { return "dict" }
func (*namespace) kind() string { return "namespace" }
func (*function) kind() string  { return "function" }

// String returns an untrusted string. Bytes that are not valid UTF-8 become U+FFFD.
func String(s string) Value { return foreign(toValid(s)) }

// Int returns an integer.
func Int(i int64) Value { return integer(i) }

// Float returns a floating-point number; 1 prints as 1.0.
func Float(f float64) Value { return float(f) }

// Bool returns True or False.
func Bool(b bool) Value { return boolean(b) }

// None returns None, JSON's null.
func None() Value { return none{} }

// List returns a list. The slice belongs to the list afterwards.
func List(items ...Value) Value {
	for i, v := range items {
		items[i] = orNone(v)
	}
	return &list{items}
}

// orNone guards against a Go nil given from outside.
func orNone(v Value) Value {
	if v == nil {
		return none{}
	}
	if d, ok := v.(*Dict); ok && d == nil {
		return none{}
	}
	return v
}

// length is the number of elements in steps: at least 0.
func (r interval) length() int {
	switch {
	case r.step > 0 && r.start < r.stop:
		return (r.stop-r.start-1)/r.step + 1
	case r.step < 0 && r.start > r.stop:
		return (r.start-r.stop-1)/(-r.step) + 1
	}
	return 0
}

// truth is Python's bool().
func truth(v Value) bool {
	switch v := v.(type) {
	case none, undefined:
		return false
	case boolean:
		return bool(v)
	case integer:
		return v != 0
	case float:
		return v != 0
	case text:
		return v.s != ""
	case *list:
		return len(v.items) > 0
	case *tuple:
		return len(v.items) > 0
	case *view:
		return len(v.items) > 0
	case *Dict:
		return v.Len() > 0
	case interval:
		return v.length() > 0
	}
	return true
}

// length is Python's len(); ok is false for values without one.
func length(v Value) (n int, ok bool) {
	switch v := v.(type) {
	case undefined:
		return 0, true
	case text:
		return v.runeCount(), true
	case *list:
		return len(v.items), true
	case *tuple:
		return len(v.items), true
	case *view:
		return len(v.items), true
	case *Dict:
		return v.Len(), true
	case interval:
		return v.length(), true
	}
	return 0, false
}

// iterable reports whether items would accept v.
func iterable(v Value) bool {
	switch v.(type) {
	case undefined, text, *list, *tuple, *view, *stream, *Dict, interval:
		return true
	}
	return false
}

// items returns what iterating over v yields. The slice may be v's own: do not change it.
func (m *machine) items(v Value) ([]Value, error) {
	var items []Value
	switch v := v.(type) {
	case undefined:
		return nil, nil
	case *list:
		items = v.items
	case *tuple:
		items = v.items
	case *view:
		items = v.items
	case *stream:
		items, v.items = v.items, nil
	case *Dict:
		items = v.keys()
	case text:
		if err := m.chargeItems(4 * len(v.s)); err != nil {
			return nil, err
		}
		return v.chars(), nil
	case interval:
		if err := m.chargeItems(v.length()); err != nil {
			return nil, err
		}
		for i := range v.length() {
			items = append(items, integer(v.start+i*v.step))
		}
		return items, nil
	default:
		return nil, typeError("'%s' object is not iterable", v.kind())
	}
	return items, m.step(len(items))
}
