package jinja

import "errors"

// loop is the variable of that name within a for block.
type loop struct {
	stmt   *forStmt
	outer  *frame // the scope around the block
	depth  int    // of recursion, from 0
	source []Value
	// ahead holds elements that passed the condition and were not visited yet: elements are
	// tested as late as possible, because a test may look at what the body has set.
	ahead   []Value
	index   int // of the current element, from 0
	prev    Value
	current Value
	changed []Value // arguments of the last loop.changed
}

func (*loop) kind() string { return "LoopContext" }

func (s *forStmt) exec(m *machine) error {
	m.line = s.line
	v, err := m.eval(s.iter)
	if err != nil {
		return err
	}
	return m.runLoop(s, v, 0)
}

// recurse runs the loop's block again on other elements and returns what it prints.
func (m *machine) recurse(l *loop, v Value) (Value, error) {
	out, outer, line := m.out, m.frame, m.line
	m.out, m.frame = &builder{m: m}, l.outer
	err := m.runLoop(l.stmt, v, l.depth+1)
	b := m.out
	m.out, m.frame, m.line = out, outer, line
	if err != nil {
		return nil, err
	}
	return b.text(), nil
}

func (m *machine) runLoop(s *forStmt, v Value, depth int) error {
	items, err := m.items(v)
	if err != nil {
		return err
	}
	outer := m.frame
	defer func() { m.frame = outer }()
	l := &loop{stmt: s, outer: outer, depth: depth, source: items, index: -1}
	for {
		more, err := m.advance(l)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		m.frame = newFrame(outer)
		m.frame.set("loop", l)
		if err := m.assign(s.target, l.current); err != nil {
			return err
		}
		err = m.execAll(s.body)
		if errors.Is(err, errBreak) {
			return nil
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
		m.frame = outer
	}
	if l.index >= 0 || len(s.otherwise) == 0 {
		return nil
	}
	m.frame = newFrame(outer)
	return m.execAll(s.otherwise)
}

// advance moves to the next element, if there is one.
func (m *machine) advance(l *loop) (bool, error) {
	more, err := m.peekLoop(l, 1)
	if err != nil || !more {
		return false, err
	}
	l.prev, l.current = l.current, l.ahead[0]
	l.ahead = l.ahead[1:]
	l.index++
	return true, nil
}

// peekLoop reads elements until n are ahead, and reports whether there are that many.
func (m *machine) peekLoop(l *loop, n int) (bool, error) {
	if l.stmt.test == nil && l.source != nil {
		l.ahead, l.source = l.source, nil
	}
	for len(l.ahead) < n && len(l.source) > 0 {
		v := l.source[0]
		l.source = l.source[1:]
		yes, err := m.loopTest(l, v)
		if err != nil {
			return false, err
		}
		if yes {
			l.ahead = append(l.ahead, v)
		}
	}
	return len(l.ahead) >= n, nil
}

// loopTest evaluates the loop's condition for an element.
func (m *machine) loopTest(l *loop, v Value) (bool, error) {
	outer := m.frame
	m.frame = newFrame(l.outer)
	err := m.assign(l.stmt.target, v)
	if err == nil {
		v, err = m.eval(l.stmt.test)
	}
	m.frame = outer
	if err != nil {
		return false, err
	}
	return truth(v), nil
}

// loopLength is the number of elements; it tests all that are left.
func (m *machine) loopLength(l *loop) (int, error) {
	if _, err := m.peekLoop(l, len(l.ahead)+len(l.source)); err != nil {
		return 0, err
	}
	return l.index + 1 + len(l.ahead), nil
}

// loopAttr is loop.name; ok is false if there is no such attribute.
func (m *machine) loopAttr(l *loop, name string) (v Value, ok bool, err error) {
	switch name {
	case "index":
		return integer(l.index + 1), true, nil
	case "index0":
		return integer(l.index), true, nil
	case "first":
		return boolean(l.index == 0), true, nil
	case "depth":
		return integer(l.depth + 1), true, nil
	case "depth0":
		return integer(l.depth), true, nil
	case "last", "nextitem":
		more, err := m.peekLoop(l, 1)
		switch {
		case err != nil:
			return nil, false, err
		case name == "last":
			return boolean(!more), true, nil
		case more:
			return l.ahead[0], true, nil
		}
		return undefined{hint: "there is no next item"}, true, nil
	case "previtem":
		if l.prev == nil {
			return undefined{hint: "there is no previous item"}, true, nil
		}
		return l.prev, true, nil
	case "length", "revindex", "revindex0":
		n, err := m.loopLength(l)
		switch name {
		case "revindex":
			n -= l.index
		case "revindex0":
			n -= l.index + 1
		}
		return integer(n), true, err
	case "cycle":
		return &function{name, l.cycle}, true, nil
	case "changed":
		return &function{name, l.hasChanged}, true, nil
	}
	return nil, false, nil
}

func (l *loop) cycle(_ *machine, a args) (Value, error) {
	if len(a.pos) == 0 {
		return nil, errors.New("loop.cycle needs something to cycle through")
	}
	return a.pos[max(l.index, 0)%len(a.pos)], nil
}

func (l *loop) hasChanged(m *machine, a args) (Value, error) {
	if l.changed != nil {
		same, err := m.equal(&tuple{items: l.changed}, &tuple{items: a.pos}, 0)
		if err != nil || same {
			return boolean(false), err
		}
	}
	l.changed = append(make([]Value, 0, len(a.pos)+1), a.pos...)
	return boolean(true), nil
}
