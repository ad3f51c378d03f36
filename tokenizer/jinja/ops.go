package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// err is what using an undefined value ends with.
func (u undefined) err() error {
	if u.unsafe {
		return errors.New("access to " + u.hint + " is unsafe")
	}
	return errors.New(u.hint)
}

// binary computes an arithmetic operator.
func (m *machine) binary(op string, a, b Value) (Value, error) {
	if u, ok := a.(undefined); ok {
		return nil, u.err()
	}
	if t, ok := a.(text); ok && op == "%" {
		return m.percentFormat(t, b)
	}
	if u, ok := b.(undefined); ok {
		return nil, u.err()
	}
	if isNumber(a) && isNumber(b) {
		return arithmetic(op, a, b)
	}
	switch op {
	case "+":
		return m.add(a, b)
	case "*":
		if isNumber(a) {
			a, b = b, a
		}
		return m.multiply(a, b)
	}
	return nil, operandError(op, a, b)
}

func operandError(op string, a, b Value) error {
	return typeError("unsupported operand types for %s: '%s' and '%s'", op, a.kind(), b.kind())
}

func (m *machine) add(a, b Value) (Value, error) {
	switch x := a.(type) {
	case text:
		if y, ok := b.(text); ok {
			return m.concat(x, y)
		}
		return nil, typeError(`can only concatenate str (not "%s") to str`, b.kind())
	case *list:
		if y, ok := b.(*list); ok {
			items, err := m.appendItems(x.items, y.items)
			return &list{items}, err
		}
	case *tuple:
		if y, ok := b.(*tuple); ok {
			items, err := m.appendItems(x.items, y.items)
			return &tuple{items: items}, err
		}
	}
	return nil, operandError("+", a, b)
}

func (m *machine) appendItems(a, b []Value) ([]Value, error) {
	if err := m.chargeItems(len(a) + len(b)); err != nil {
		return nil, err
	}
	return append(append(make([]Value, 0, len(a)+len(b)), a...), b...), nil
}

func (m *machine) multiply(a, b Value) (Value, error) {
	if _, ok := asInt(b); !ok {
		return nil, operandError("*", a, b)
	}
	n, err := intArg(b, 0)
	if err != nil {
		return nil, err
	}
	switch x := a.(type) {
	case text:
		return m.repeat(x, n)
	case *list:
		items, err := m.repeatItems(x.items, n)
		return &list{items}, err
	case *tuple:
		items, err := m.repeatItems(x.items, n)
		return &tuple{items: items}, err
	}
	return nil, operandError("*", a, b)
}

func (m *machine) repeatItems(items []Value, n int) ([]Value, error) {
	if n <= 0 || len(items) == 0 {
		return nil, nil
	}
	if n > maxIndex/len(items) {
		return nil, fmt.Errorf("list repeated %d times: %w", n, ErrBudget)
	}
	if err := m.chargeItems(n * len(items)); err != nil {
		return nil, err
	}
	repeated := make([]Value, 0, n*len(items))
	for range n {
		repeated = append(repeated, items...)
	}
	return repeated, nil
}

// compare evaluates one comparison operator.
func (m *machine) compare(op string, a, b Value) (bool, error) {
	switch op {
	case "==":
		return m.equal(a, b, 0)
	case "!=":
		same, err := m.equal(a, b, 0)
		return !same, err
	case "in":
		return m.contains(b, a)
	case "not in":
		found, err := m.contains(b, a)
		return !found, err
	}
	order, ok, err := m.order(a, b, 0)
	if err != nil || !ok {
		return false, err
	}
	switch op {
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">":
		return order > 0, nil
	}
	return order >= 0, nil
}

// equal is Python's ==. Marks do not count.
func (m *machine) equal(a, b Value, depth int) (bool, error) {
	if depth > maxValueDepth {
		return false, errValueDepth
	}
	if err := m.step(1); err != nil {
		return false, err
	}
	if isNumber(a) && isNumber(b) {
		order, ok := compareNumbers(a, b)
		return ok && order == 0, nil
	}
	switch x := a.(type) {
	case text:
		y, ok := b.(text)
		return ok && x.s == y.s, m.step(len(x.s) / 1024)
	case none:
		_, ok := b.(none)
		return ok, nil
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case *list:
		y, ok := b.(*list)
		if !ok || len(x.items) != len(y.items) {
			return false, nil
		}
		return m.equalItems(x.items, y.items, depth)
	case *tuple:
		y, ok := b.(*tuple)
		if !ok || len(x.items) != len(y.items) {
			return false, nil
		}
		return m.equalItems(x.items, y.items, depth)
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || x.Len() != y.Len() {
			return false, nil
		}
		return m.equalDicts(x, y, depth)
	}
	return a == b, nil
}

func (m *machine) equalItems(a, b []Value, depth int) (bool, error) {
	for i := range a {
		if same, err := m.equal(a[i], b[i], depth+1); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (m *machine) equalDicts(a, b *Dict, depth int) (bool, error) {
	for _, en := range a.entries {
		i := b.find("", en.hash)
		if i < 0 {
			return false, nil
		}
		same, err := m.equal(en.value, b.entries[i].value, depth+1)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// order compares for sorting: ok is false if neither is less, as with NaN.
func (m *machine) order(a, b Value, depth int) (order int, ok bool, err error) {
	if depth > maxValueDepth {
		return 0, false, errValueDepth
	}
	if err := m.step(1); err != nil {
		return 0, false, err
	}
	if isNumber(a) && isNumber(b) {
		order, ok := compareNumbers(a, b)
		return order, ok, nil
	}
	switch x := a.(type) {
	case undefined:
		return 0, false, x.err()
	case text:
		if y, ok := b.(text); ok {
			return strings.Compare(x.s, y.s), true, m.step(min(len(x.s), len(y.s)) / 1024)
		}
	case *list:
		if y, ok := b.(*list); ok {
			return m.orderItems(x.items, y.items, depth)
		}
	case *tuple:
		if y, ok := b.(*tuple); ok {
			return m.orderItems(x.items, y.items, depth)
		}
	}
	if u, ok := b.(undefined); ok {
		return 0, false, u.err()
	}
	return 0, false, typeError("values of type '%s' and '%s' have no order", a.kind(), b.kind())
}

func (m *machine) orderItems(a, b []Value, depth int) (int, bool, error) {
	for i := range min(len(a), len(b)) {
		same, err := m.equal(a[i], b[i], depth+1)
		if err != nil {
			return 0, false, err
		}
		if !same {
			return m.order(a[i], b[i], depth+1)
		}
	}
	return len(a) - len(b), true, nil
}

// contains is Python's "v in set".
func (m *machine) contains(set, v Value) (bool, error) {
	switch s := set.(type) {
	case text:
		if u, ok := v.(undefined); ok {
			return false, u.err()
		}
		t, ok := v.(text)
		if !ok {
			return false, typeError("'in <string>' requires string as left operand, not %s", v.kind())
		}
		return strings.Contains(s.s, t.s), m.step(len(s.s) / 256)
	case *Dict:
		_, found, err := m.get(s, v)
		return found, err
	case *namespace, *macro, *loop, *function:
		return false, typeError("argument of type '%s' is not iterable", set.kind())
	}
	items, err := m.items(set)
	if err != nil {
		return false, err
	}
	for _, item := range items {
		if same, err := m.equal(item, v, 0); err != nil || same {
			return same, err
		}
	}
	return false, nil
}
