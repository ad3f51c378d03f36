package jinja

import "unicode"

// testFunc answers "v is name(args)".
type testFunc func(m *machine, v Value, a args) (bool, error)

var tests = map[string]testFunc{
	"defined":   kindTest(func(v Value) bool { _, u := v.(undefined); return !u }),
	"undefined": kindTest(func(v Value) bool { _, u := v.(undefined); return u }),
	"none":      kindTest(func(v Value) bool { _, ok := v.(none); return ok }),
	"boolean":   kindTest(func(v Value) bool { _, ok := v.(boolean); return ok }),
	"true":      kindTest(func(v Value) bool { return v == Value(boolean(true)) }),
	"false":     kindTest(func(v Value) bool { return v == Value(boolean(false)) }),
	"integer":   kindTest(func(v Value) bool { return v.kind() == "int" }),
	"float":     kindTest(func(v Value) bool { return v.kind() == "float" }),
	"number":    kindTest(isNumber),
	"string":    kindTest(func(v Value) bool { return v.kind() == "str" }),
	"mapping":   kindTest(func(v Value) bool { return v.kind() == "dict" }),
	"iterable":  kindTest(iterable),
	"sequence": kindTest(func(v Value) bool {
		_, isView := v.(*view)
		_, sized := length(v)
		return sized && !isView
	}),
	"callable": kindTest(func(v Value) bool {
		switch v.(type) {
		case *macro, *function, *loop, undefined:
			return true
		}
		return false
	}),
	"escaped":     kindTest(func(Value) bool { return false }),
	"lower":       textTest(func(s string) bool { return isUniform(s, unicode.IsLower) }),
	"upper":       textTest(func(s string) bool { return isUniform(s, unicode.IsUpper) }),
	"even":        parityTest(0),
	"odd":         parityTest(1),
	"divisibleby": testDivisible,
	"sameas":      testSame,

	"eq": compareTest("=="), "equalto": compareTest("=="), "==": compareTest("=="),
	"ne": compareTest("!="), "!=": compareTest("!="),
	"lt": compareTest("<"), "lessthan": compareTest("<"), "<": compareTest("<"),
	"gt": compareTest(">"), "greaterthan": compareTest(">"), ">": compareTest(">"),
	"le": compareTest("<="), "<=": compareTest("<="),
	"ge": compareTest(">="), ">=": compareTest(">="),
	"in": compareTest("in"),
}

// testByName returns nil if there is no such test.
func testByName(name string) testFunc {
	switch name { // these look into the tables themselves
	case "test":
		return nameTest(func(s string) bool { return testByName(s) != nil })
	case "filter":
		return nameTest(func(s string) bool { return filterByName(s) != nil })
	}
	return tests[name]
}

func nameTest(known func(string) bool) testFunc {
	return kindTest(func(v Value) bool {
		t, ok := v.(text)
		return ok && known(t.s)
	})
}

func kindTest(f func(Value) bool) testFunc {
	return func(_ *machine, v Value, a args) (bool, error) {
		_, err := a.bind("test", 0)
		return f(v), err
	}
}

func textTest(f func(string) bool) testFunc {
	return func(m *machine, v Value, a args) (bool, error) {
		if _, err := a.bind("test", 0); err != nil {
			return false, err
		}
		t, err := m.str(v)
		if err != nil {
			return false, err
		}
		return f(t.s), m.step(len(t.s) / 64)
	}
}

func compareTest(op string) testFunc {
	return func(m *machine, v Value, a args) (bool, error) {
		b, err := a.bind("test", 1, "other")
		if err != nil {
			return false, err
		}
		return m.compare(op, v, b[0])
	}
}

func parityTest(rest integer) testFunc {
	return func(m *machine, v Value, a args) (bool, error) {
		if _, err := a.bind("test", 0); err != nil {
			return false, err
		}
		r, err := m.binary("%", v, integer(2))
		if err != nil {
			return false, err
		}
		return m.equal(r, rest, 0)
	}
}

func testDivisible(m *machine, v Value, a args) (bool, error) {
	b, err := a.bind("divisibleby", 1, "num")
	if err != nil {
		return false, err
	}
	r, err := m.binary("%", v, b[0])
	if err != nil {
		return false, err
	}
	return m.equal(r, integer(0), 0)
}

// testSame is identity as far as a template can rely on it: the same object, or equal scalars of
// one kind.
func testSame(m *machine, v Value, a args) (bool, error) {
	b, err := a.bind("sameas", 1, "other")
	if err != nil {
		return false, err
	}
	switch v := v.(type) {
	case text:
		t, ok := b[0].(text)
		return ok && v.s == t.s, nil
	case boolean, integer, float, bigint, none, undefined:
		if v.kind() != b[0].kind() {
			return false, nil
		}
		return m.equal(v, b[0], 0)
	}
	if _, ok := b[0].(text); ok {
		return false, nil
	}
	return v == b[0], nil
}
