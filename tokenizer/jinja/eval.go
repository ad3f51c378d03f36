package jinja

import "fmt"

func (e *constExpr) eval(*machine) (Value, error) { return e.value, nil }

func (e *nameExpr) eval(m *machine) (Value, error) { return m.lookup(e.name) }

func (e *attrExpr) eval(m *machine) (Value, error) {
	of, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	return m.attr(of, e.name)
}

func (e *indexExpr) eval(m *machine) (Value, error) {
	of, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	index, err := m.eval(e.index)
	if err != nil {
		return nil, err
	}
	return m.item(of, index)
}

func (e *sliceExpr) eval(m *machine) (Value, error) {
	of, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	var bounds [3]Value
	for i, part := range []expr{e.start, e.stop, e.step} {
		bounds[i] = none{}
		if part == nil {
			continue
		}
		if bounds[i], err = m.eval(part); err != nil {
			return nil, err
		}
	}
	return m.slice(of, bounds)
}

func (e *callExpr) eval(m *machine) (Value, error) {
	fn, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	a, err := m.evalArgs(&e.args)
	if err != nil {
		return nil, err
	}
	m.line = e.line
	return m.call(fn, a)
}

func (e *filterExpr) eval(m *machine) (Value, error) {
	var v Value
	var err error
	if e.of == nil {
		v, err = m.lookup(blockText)
	} else {
		v, err = m.eval(e.of)
	}
	if err != nil {
		return nil, err
	}
	a, err := m.evalArgs(&e.args)
	if err != nil {
		return nil, err
	}
	if e.call == nil {
		return nil, fmt.Errorf("no filter named '%s'", e.name)
	}
	return e.call(m, v, a)
}

func (e *testExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	a, err := m.evalArgs(&e.args)
	if err != nil {
		return nil, err
	}
	if e.call == nil {
		return nil, fmt.Errorf("no test named '%s'", e.name)
	}
	yes, err := e.call(m, v, a)
	return boolean(yes), err
}

func (e *unaryExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	if e.op == "not" {
		return boolean(!truth(v)), nil
	}
	return unary(e.op, v)
}

func (e *binaryExpr) eval(m *machine) (Value, error) {
	left, err := m.eval(e.left)
	if err != nil {
		return nil, err
	}
	right, err := m.eval(e.right)
	if err != nil {
		return nil, err
	}
	return m.binary(e.op, left, right)
}

func (e *logicExpr) eval(m *machine) (Value, error) {
	left, err := m.eval(e.left)
	if err != nil || truth(left) != e.and {
		return left, err
	}
	return m.eval(e.right)
}

func (e *condExpr) eval(m *machine) (Value, error) {
	test, err := m.eval(e.test)
	if err != nil {
		return nil, err
	}
	switch {
	case truth(test):
		return m.eval(e.then)
	case e.otherwise != nil:
		return m.eval(e.otherwise)
	}
	return undefined{hint: "the inline if-expression has no else and was false"}, nil
}

func (e *concatExpr) eval(m *machine) (Value, error) {
	b := builder{m: m}
	for _, part := range e.parts {
		v, err := m.eval(part)
		if err != nil {
			return nil, err
		}
		t, err := m.str(v)
		if err != nil {
			return nil, err
		}
		if err := b.add(t); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

func (e *compareExpr) eval(m *machine) (Value, error) {
	left, err := m.eval(e.first)
	if err != nil {
		return nil, err
	}
	for _, c := range e.rest {
		right, err := m.eval(c.right)
		if err != nil {
			return nil, err
		}
		yes, err := m.compare(c.op, left, right)
		if err != nil || !yes {
			return boolean(false), err
		}
		left = right
	}
	return boolean(true), nil
}

func (e *listExpr) eval(m *machine) (Value, error) {
	items, err := m.evalAll(e.items)
	return &list{items}, err
}

func (e *tupleExpr) eval(m *machine) (Value, error) {
	items, err := m.evalAll(e.items)
	return &tuple{items: items}, err
}

func (e *dictExpr) eval(m *machine) (Value, error) {
	d := NewDict()
	for i := range e.keys {
		key, err := m.eval(e.keys[i])
		if err != nil {
			return nil, err
		}
		value, err := m.eval(e.values[i])
		if err != nil {
			return nil, err
		}
		if err := m.put(d, key, value); err != nil {
			return nil, err
		}
	}
	return d, nil
}
