package jinja

import (
	"errors"
	"fmt"
)

// globals are the functions every template can call.
var globals = map[string]*function{
	"range":           {"range", callRange},
	"dict":            {"dict", callDict},
	"namespace":       {"namespace", callNamespace},
	"cycler":          {"cycler", callCycler},
	"joiner":          {"joiner", callJoiner},
	"raise_exception": {"raise_exception", callRaise},
	"strftime_now":    {"strftime_now", callStrftime},
}

func globalByName(name string) Value {
	if f, ok := globals[name]; ok {
		return f
	}
	return nil
}

// maxRange is the sandbox's own bound on range.
const maxRange = 100_000

func callRange(_ *machine, a args) (Value, error) {
	b, err := a.bind("range", 1, "start", "stop", "step")
	if err != nil {
		return nil, err
	}
	var n [3]int
	for i, otherwise := range []int{0, 0, 1} {
		if n[i], err = intArg(b[i], otherwise); err != nil {
			return nil, err
		}
	}
	r := interval{n[0], n[1], n[2]}
	if b[1] == nil {
		r.start, r.stop = 0, n[0]
	}
	if r.step == 0 {
		return nil, errors.New("range() arg 3 must not be zero")
	}
	if r.length() > maxRange {
		return nil, fmt.Errorf("range of %d elements, limit %d: %w", r.length(), maxRange, ErrBudget)
	}
	return r, nil
}

func callDict(m *machine, a args) (Value, error) {
	if len(a.pos) > 1 {
		return nil, typeError("dict expected at most 1 argument, got %d", len(a.pos))
	}
	d := NewDict()
	if len(a.pos) == 1 {
		if err := m.fillDict(d, a.pos[0]); err != nil {
			return nil, err
		}
	}
	for _, kw := range a.kw {
		if err := m.put(d, kw.name, kw.value); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// fillDict adds the entries of a dict or of a sequence of pairs.
func (m *machine) fillDict(d *Dict, from Value) error {
	pairs := from
	if source, ok := from.(*Dict); ok {
		if err := m.chargeItems(4 * source.Len()); err != nil {
			return err
		}
		pairs = &list{source.pairs()}
	}
	items, err := m.items(pairs)
	if err != nil {
		return err
	}
	for _, item := range items {
		pair, err := m.items(item)
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return typeError("dict needs pairs, got %d values", len(pair))
		}
		if err := m.put(d, pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func callNamespace(m *machine, a args) (Value, error) {
	d, err := callDict(m, a)
	if err != nil {
		return nil, err
	}
	return &namespace{d.(*Dict)}, nil
}

// cycle is Jinja2's cycler object.
type cycle struct {
	items []Value
	at    int
}

func (*cycle) kind() string { return "Cycler" }

func callCycler(_ *machine, a args) (Value, error) {
	if len(a.pos) == 0 || len(a.kw) > 0 {
		return nil, typeError("cycler needs at least one item")
	}
	return &cycle{items: a.pos}, nil
}

func (c *cycle) attr(name string) (Value, bool) {
	switch name {
	case "current":
		return c.items[c.at], true
	case "next":
		return &function{name, func(*machine, args) (Value, error) {
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v, nil
		}}, true
	case "reset":
		return &function{name, func(*machine, args) (Value, error) {
			c.at = 0
			return none{}, nil
		}}, true
	}
	return nil, false
}

func callJoiner(_ *machine, a args) (Value, error) {
	b, err := a.bind("joiner", 0, "sep")
	if err != nil {
		return nil, err
	}
	sep := b[0]
	if sep == nil {
		sep = own(", ")
	}
	used := false
	return &function{"joiner", func(*machine, args) (Value, error) {
		if used {
			return sep, nil
		}
		used = true
		return own(""), nil
	}}, nil
}

func callRaise(m *machine, a args) (Value, error) {
	b, err := a.bind("raise_exception", 1, "message")
	if err != nil {
		return nil, err
	}
	t, err := m.str(b[0])
	if err != nil {
		return nil, err
	}
	return nil, &RaiseError{t.s}
}

func callStrftime(m *machine, a args) (Value, error) {
	b, err := a.bind("strftime_now", 1, "format")
	if err != nil {
		return nil, err
	}
	format, err := textArg("strftime_now", b[0])
	if err != nil {
		return nil, err
	}
	// No directive is longer than 24 characters.
	if err := m.charge(24 * len(format.s)); err != nil {
		return nil, err
	}
	return derived(strftime(m.now, format.s), format), nil
}
