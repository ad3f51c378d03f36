package jinja

import (
	"errors"
	"strings"
)

// selectFilter returns the filters that take another filter or test by name. They are not in a
// table because they look into the tables themselves.
func selectFilter(name string) filterFunc {
	switch name {
	case "map":
		return filterMap
	case "select", "reject", "selectattr", "rejectattr":
		byAttr := strings.HasSuffix(name, "attr")
		keep := strings.HasPrefix(name, "select")
		return func(m *machine, v Value, a args) (Value, error) {
			return m.selectItems(v, a, byAttr, keep)
		}
	}
	return nil
}

func (m *machine) selectItems(v Value, a args, byAttr, keep bool) (Value, error) {
	if !truth(v) {
		return &stream{}, nil
	}
	key := m.getter(nil, nil, false)
	if byAttr {
		if len(a.pos) == 0 {
			return nil, typeError("missing parameter for attribute name")
		}
		key = m.getter(a.pos[0], nil, false)
		a.pos = a.pos[1:]
	}
	test := func(_ *machine, v Value, _ args) (bool, error) { return truth(v), nil }
	if len(a.pos) > 0 {
		name, err := textArg("select", a.pos[0])
		if err != nil {
			return nil, err
		}
		if test = testByName(name.s); test == nil {
			return nil, errors.New("no test named '" + name.s + "'")
		}
		a.pos = a.pos[1:]
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	result := &stream{}
	for _, item := range items {
		k, err := key(item)
		if err != nil {
			return nil, err
		}
		yes, err := test(m, k, a)
		if err != nil {
			return nil, err
		}
		if yes == keep {
			result.items = append(result.items, item)
		}
	}
	return result, nil
}

func filterMap(m *machine, v Value, a args) (Value, error) {
	if !truth(v) {
		return &stream{}, nil
	}
	key, err := m.mapKey(a)
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	mapped, err := m.keysOf(items, key)
	return &stream{mapped}, err
}

// mapKey reads map's arguments: attribute=... with default=..., or a filter and its arguments.
func (m *machine) mapKey(a args) (keyFunc, error) {
	if len(a.pos) == 0 {
		b, err := a.bind("map", 0, "attribute", "default")
		if err != nil {
			return nil, err
		}
		if b[0] == nil {
			return nil, typeError("map requires a filter argument")
		}
		return m.getter(b[0], b[1], false), nil
	}
	name, err := textArg("map", a.pos[0])
	if err != nil {
		return nil, err
	}
	filter := filterByName(name.s)
	if filter == nil {
		return nil, errors.New("no filter named '" + name.s + "'")
	}
	a.pos = a.pos[1:]
	return func(v Value) (Value, error) {
		if err := m.descend(); err != nil {
			return nil, err
		}
		mapped, err := filter(m, v, a)
		m.depth--
		return mapped, err
	}, nil
}
