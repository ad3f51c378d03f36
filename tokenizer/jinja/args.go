package jinja

import "slices"

// args are the evaluated arguments of a call.
type args struct {
	pos []Value
	kw  []kwarg
}

type kwarg struct {
	name  text
	value Value
}

func (m *machine) evalArgs(e *argExprs) (args, error) {
	var a args
	if len(e.pos)+len(e.kw) == 0 && e.star == nil && e.starkw == nil {
		return a, nil
	}
	var err error
	if a.pos, err = m.evalAll(e.pos); err != nil {
		return a, err
	}
	for i, k := range e.kw {
		v, err := m.eval(k)
		if err != nil {
			return a, err
		}
		a.kw = append(a.kw, kwarg{e.names[i].(text), v})
	}
	if e.star != nil {
		if err := m.evalStar(&a, e.star); err != nil {
			return a, err
		}
	}
	if e.starkw == nil {
		return a, nil
	}
	return a, m.evalStarKw(&a, e.starkw)
}

func (m *machine) evalStar(a *args, e expr) error {
	v, err := m.eval(e)
	if err != nil {
		return err
	}
	items, err := m.items(v)
	if err != nil {
		return err
	}
	if err := m.chargeItems(len(items)); err != nil {
		return err
	}
	a.pos = append(a.pos, items...)
	return nil
}

func (m *machine) evalStarKw(a *args, e expr) error {
	v, err := m.eval(e)
	if err != nil {
		return err
	}
	d, ok := v.(*Dict)
	if !ok {
		return typeError("argument after ** must be a mapping, not %s", v.kind())
	}
	if err := m.chargeItems(3 * d.Len()); err != nil {
		return err
	}
	for _, en := range d.entries {
		name, ok := en.key.(text)
		if !ok {
			return typeError("keywords must be strings")
		}
		a.kw = append(a.kw, kwarg{name, en.value})
	}
	return nil
}

// bind orders arguments by parameter name; those not given are nil. The first required must be
// given.
func (a args) bind(fn string, required int, names ...string) ([]Value, error) {
	if len(a.pos) > len(names) {
		return nil, typeError("%s() takes at most %d arguments (%d given)",
			fn, len(names), len(a.pos))
	}
	bound := make([]Value, len(names))
	copy(bound, a.pos)
	for _, kw := range a.kw {
		i := slices.Index(names, kw.name.s)
		if i < 0 {
			return nil, typeError("%s() got an unexpected keyword argument '%s'", fn, kw.name.s)
		}
		if bound[i] != nil {
			return nil, typeError("%s() got multiple values for argument '%s'", fn, kw.name.s)
		}
		bound[i] = kw.value
	}
	for i := range required {
		if bound[i] == nil {
			return nil, typeError("%s() misses the argument '%s'", fn, names[i])
		}
	}
	return bound, nil
}

// maxIndex bounds the integers that count or position things; no value is longer.
const maxIndex = 1 << 40

// intArg reads an optional integer argument; values beyond any length are clamped.
func intArg(v Value, otherwise int) (int, error) {
	switch v := v.(type) {
	case nil:
		return otherwise, nil
	case boolean:
		if v {
			return 1, nil
		}
		return 0, nil
	case integer:
		return int(min(max(v, -maxIndex), maxIndex)), nil
	case bigint:
		return v.Sign() * maxIndex, nil
	case undefined:
		return 0, v.err()
	}
	return 0, typeError("'%s' object cannot be interpreted as an integer", v.kind())
}

// textArg reads a string argument, which must be one.
func textArg(fn string, v Value) (text, error) {
	switch v := v.(type) {
	case text:
		return v, nil
	case undefined:
		return text{}, v.err()
	}
	return text{}, typeError("%s() expects a str, got %s", fn, v.kind())
}

// boolArg reads an optional argument's truth.
func boolArg(v Value, otherwise bool) bool {
	if v == nil {
		return otherwise
	}
	return truth(v)
}
