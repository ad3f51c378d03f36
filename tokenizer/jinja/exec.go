package jinja

import (
	"errors"
	"slices"
)

func (s *textStmt) exec(m *machine) error { return m.out.add(s.text) }

func (s *outputStmt) exec(m *machine) error {
	m.line = s.line
	v, err := m.eval(s.value)
	if err != nil {
		return err
	}
	t, err := m.str(v)
	if err != nil {
		return err
	}
	return m.out.add(t)
}

func (s *ifStmt) exec(m *machine) error {
	for {
		m.line = s.line
		v, err := m.eval(s.test)
		if err != nil {
			return err
		}
		if truth(v) {
			return m.execAll(s.body)
		}
		if len(s.tail) == 1 {
			if tail, ok := s.tail[0].(*ifStmt); ok {
				s = tail
				continue
			}
		}
		return m.execAll(s.tail)
	}
}

func (s *setStmt) exec(m *machine) error {
	m.line = s.line
	v, err := m.eval(s.value)
	if err != nil {
		return err
	}
	return m.assign(s.target, v)
}

func (s *setBlockStmt) exec(m *machine) error {
	t, err := m.capture(newFrame(m.frame), s.body)
	if err != nil {
		return err
	}
	m.line = s.line
	var v Value = t
	if s.filter != nil {
		if v, err = m.filterText(s.filter, t); err != nil {
			return err
		}
	}
	return m.assign(s.target, v)
}

func (s *filterStmt) exec(m *machine) error {
	t, err := m.capture(newFrame(m.frame), s.body)
	if err != nil {
		return err
	}
	m.line = s.line
	v, err := m.filterText(s.filter, t)
	if err != nil {
		return err
	}
	if t, err = m.str(v); err != nil {
		return err
	}
	return m.out.add(t)
}

// blockText is the name under which a filter without operand finds its block's text; no template
// can spell it.
const blockText = "\x00block"

// filterText runs a chain of filters whose innermost has no operand on t.
func (m *machine) filterText(filter expr, t text) (Value, error) {
	outer := m.frame
	m.frame = newFrame(outer)
	m.frame.set(blockText, t)
	v, err := m.eval(filter)
	m.frame = outer
	return v, err
}

func (s *withStmt) exec(m *machine) error {
	m.line = s.line
	values, err := m.evalAll(s.values)
	if err != nil {
		return err
	}
	outer := m.frame
	m.frame = newFrame(outer)
	for i, t := range s.targets {
		if err = m.assign(t, values[i]); err != nil {
			break
		}
	}
	if err == nil {
		err = m.execAll(s.body)
	}
	m.frame = outer
	return err
}

func (breakStmt) exec(*machine) error    { return errBreak }
func (continueStmt) exec(*machine) error { return errContinue }

// macro is a callable block of a template together with the scope it was written in.
type macro struct {
	*macroStmt
	frame *frame
}

func (*macro) kind() string { return "Macro" }

func (s *macroStmt) exec(m *machine) error {
	m.frame.set(s.name, &macro{s, m.frame})
	return nil
}

func (s *callStmt) exec(m *machine) error {
	m.line = s.line
	fn, err := m.eval(s.call.of)
	if err != nil {
		return err
	}
	a, err := m.evalArgs(&s.call.args)
	if err != nil {
		return err
	}
	a.kw = append(a.kw, kwarg{own("caller"), &macro{s.block, m.frame}})
	v, err := m.call(fn, a)
	if err != nil {
		return err
	}
	t, err := m.str(v)
	if err != nil {
		return err
	}
	return m.out.add(t)
}

// callMacro binds the arguments and returns what the macro prints.
func (m *machine) callMacro(mac *macro, a args) (Value, error) {
	f := newFrame(mac.frame)
	if err := mac.bind(m, f, a); err != nil {
		return nil, err
	}
	line, outer := m.line, m.frame
	m.frame = f
	err := m.evalDefaults(mac, f)
	m.frame = outer
	if err != nil {
		return nil, err
	}
	t, err := m.capture(f, mac.body)
	if err != nil {
		return nil, err
	}
	m.line = line
	return t, nil
}

// evalDefaults gives the parameters that bind left open their defaults. A default sees the
// parameters before it, and itself as undefined.
func (m *machine) evalDefaults(mac *macro, f *frame) error {
	var open []int
	for i, name := range mac.params {
		if !f.holds(name) {
			open = append(open, i)
			f.set(name, undefined{hint: "parameter '" + name + "' was not provided"})
		}
	}
	required := len(mac.params) - len(mac.defaults)
	for _, i := range open {
		if i < required {
			continue
		}
		v, err := m.eval(mac.defaults[i-required])
		if err != nil {
			return err
		}
		f.set(mac.params[i], v)
	}
	return nil
}

// holds reports whether the name is bound in this very frame.
func (f *frame) holds(name string) bool {
	return slices.ContainsFunc(f.bindings, func(b binding) bool { return b.name == name })
}

// bind puts the given arguments into the frame.
func (mac *macro) bind(m *machine, f *frame, a args) error {
	if len(a.pos) > len(mac.params) && !mac.usesVarargs {
		return typeError("macro '%s' takes not more than %d arguments", mac.name, len(mac.params))
	}
	n := min(len(a.pos), len(mac.params))
	for i := range n {
		f.set(mac.params[i], a.pos[i])
	}
	extra := NewDict()
	var caller Value = undefined{hint: "no caller defined"}
	for _, kw := range a.kw {
		at := slices.Index(mac.params, kw.name.s)
		switch {
		case at >= 0 && at < n:
			return typeError("macro '%s' got two values for '%s'", mac.name, kw.name.s)
		case at >= 0:
			f.set(mac.params[at], kw.value)
		case kw.name.s == "caller" && mac.usesCaller:
			caller = kw.value
		case mac.usesKwargs:
			if err := m.put(extra, kw.name, kw.value); err != nil {
				return err
			}
		default:
			return typeError("macro '%s' takes no keyword argument '%s'", mac.name, kw.name.s)
		}
	}
	if mac.usesVarargs {
		f.set("varargs", &tuple{items: a.pos[n:]})
	}
	if mac.usesKwargs {
		f.set("kwargs", extra)
	}
	if mac.usesCaller && !slices.Contains(mac.params, "caller") {
		f.set("caller", caller)
	}
	return nil
}

// call calls a function, a macro or a recursive loop.
func (m *machine) call(fn Value, a args) (Value, error) {
	switch fn := fn.(type) {
	case *function:
		return fn.call(m, a)
	case *macro:
		return m.callMacro(fn, a)
	case *loop:
		if !fn.stmt.recursive {
			return nil, errors.New("loop is not recursive: the for tag must say so")
		}
		v, err := a.bind("loop", 1, "iterable")
		if err != nil {
			return nil, err
		}
		return m.recurse(fn, v[0])
	case undefined:
		return nil, fn.err()
	}
	return nil, typeError("'%s' object is not callable", fn.kind())
}
