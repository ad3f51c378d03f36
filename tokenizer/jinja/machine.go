package jinja

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxValueDepth bounds the nesting of lists and dicts wherever values are walked.
const maxValueDepth = 500

var errValueDepth = fmt.Errorf("values nested deeper than %d levels: %w", maxValueDepth, ErrBudget)

// errBreak and errContinue carry a loop control up to its loop.
var (
	errBreak    = errors.New("break outside of a loop")
	errContinue = errors.New("continue outside of a loop")
)

// typeError says that an operation does not fit a value, in Python's words.
func typeError(format string, a ...any) error { return fmt.Errorf(format, a...) }

// machine runs one Render. Only the rendering goroutine touches it.
type machine struct {
	ctx     context.Context
	vars    *Dict
	trusted map[string]string
	now     time.Time

	stepsLeft int
	bytesLeft int
	maxBytes  int
	maxDepth  int
	untilPoll int // steps before the context is asked again
	depth     int

	line  int // of the statement that runs, for errors
	frame *frame
	out   *builder
}

// step charges n steps of work.
func (m *machine) step(n int) error {
	m.stepsLeft -= n
	if m.stepsLeft < 0 {
		m.stepsLeft = 0
		return fmt.Errorf("too many steps: %w", ErrBudget)
	}
	if m.untilPoll -= n; m.untilPoll <= 0 {
		m.untilPoll = 4096
		if m.ctx.Err() != nil {
			return context.Cause(m.ctx)
		}
	}
	return nil
}

// charge pays for n bytes of text or other storage before it is allocated (R2).
func (m *machine) charge(n int) error {
	if n > m.bytesLeft {
		m.bytesLeft = 0
		return fmt.Errorf("too many bytes: %w", ErrBudget)
	}
	m.bytesLeft -= n
	return m.step(n / 64)
}

// chargeItems pays for a list of n elements.
func (m *machine) chargeItems(n int) error {
	if n > m.bytesLeft/16 {
		return fmt.Errorf("list of %d elements: %w", n, ErrBudget)
	}
	if err := m.charge(16 * n); err != nil {
		return err
	}
	return m.step(n)
}

// descend counts a level of nesting; the caller lowers depth again.
func (m *machine) descend() error {
	if m.depth++; m.depth > m.maxDepth {
		return fmt.Errorf("nested deeper than %d levels: %w", m.maxDepth, ErrBudget)
	}
	return m.step(1)
}

func (m *machine) eval(e expr) (Value, error) {
	if err := m.descend(); err != nil {
		return nil, err
	}
	v, err := e.eval(m)
	m.depth--
	return v, err
}

func (m *machine) evalAll(exprs []expr) ([]Value, error) {
	if err := m.chargeItems(len(exprs)); err != nil {
		return nil, err
	}
	values := make([]Value, len(exprs))
	for i, e := range exprs {
		var err error
		if values[i], err = m.eval(e); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (m *machine) execAll(body []stmt) error {
	for _, s := range body {
		if err := m.descend(); err != nil {
			return err
		}
		err := s.exec(m)
		m.depth--
		if err != nil {
			return err
		}
	}
	return nil
}

// frame is a scope. Loops, macros and some blocks open one; if does not.
type frame struct {
	parent   *frame
	bindings []binding
	first    [3]binding // room for the bindings of a small frame
}

type binding struct {
	name  string
	value Value
}

func newFrame(parent *frame) *frame {
	f := &frame{parent: parent}
	f.bindings = f.first[:0]
	return f
}

func (f *frame) set(name string, v Value) {
	for i := range f.bindings {
		if f.bindings[i].name == name {
			f.bindings[i].value = v
			return
		}
	}
	f.bindings = append(f.bindings, binding{name, v})
}

// lookup finds a variable: the scopes from the inside out, the trusted strings, the request's
// variables, the built-in functions.
func (m *machine) lookup(name string) (Value, error) {
	scanned := 0
	for f := m.frame; f != nil; f = f.parent {
		for i := range f.bindings {
			if f.bindings[i].name == name {
				return f.bindings[i].value, nil
			}
		}
		scanned += len(f.bindings)
	}
	if err := m.step(scanned / 16); err != nil {
		return nil, err
	}
	if s, ok := m.trusted[name]; ok {
		return own(toValid(s)), nil
	}
	if v, ok := m.vars.Get(name); ok {
		return v, nil
	}
	if g := globalByName(name); g != nil {
		return g, nil
	}
	return undefined{hint: fmt.Sprintf("'%s' is undefined", name)}, nil
}

// assign writes v to a target.
func (m *machine) assign(t target, v Value) error {
	if t.parts != nil {
		return m.unpack(t.parts, v)
	}
	if t.attr == "" {
		if err := m.step(len(m.frame.bindings) / 16); err != nil {
			return err
		}
		m.frame.set(t.name, v)
		return nil
	}
	holder, err := m.lookup(t.name)
	if err != nil {
		return err
	}
	ns, ok := holder.(*namespace)
	if !ok {
		return errors.New("cannot assign attribute on non-namespace object")
	}
	return m.put(ns.attrs, own(t.attr), v)
}

func (m *machine) unpack(parts []target, v Value) error {
	items, err := m.items(v)
	if err != nil {
		return err
	}
	if len(items) != len(parts) {
		return typeError("cannot unpack %d values into %d names", len(items), len(parts))
	}
	for i, part := range parts {
		if err := m.assign(part, items[i]); err != nil {
			return err
		}
	}
	return nil
}

// capture runs body in a scope of its own and returns what it prints.
func (m *machine) capture(f *frame, body []stmt) (text, error) {
	out, outer := m.out, m.frame
	m.out, m.frame = &builder{m: m}, f
	err := m.execAll(body)
	t := m.out
	m.out, m.frame = out, outer
	if err != nil {
		return text{}, err
	}
	return t.text(), nil
}
