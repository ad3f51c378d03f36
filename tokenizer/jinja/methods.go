package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

type textMethod func(m *machine, t text, a args) (Value, error)

// textMethods are Python's str methods.
var textMethods = map[string]textMethod{
	"capitalize": mapText(capitalize),
	"lower":      mapText(lower),
	"swapcase":   mapText(swapcase),
	"title":      mapText(title),
	"upper":      mapText(upper),

	"isalnum":   checkText(func(s string) bool { return allRunes(s, isAlnum) }),
	"isalpha":   checkText(func(s string) bool { return allRunes(s, unicode.IsLetter) }),
	"isascii":   checkText(isASCII),
	"isdecimal": checkText(func(s string) bool { return allRunes(s, unicode.IsDigit) }),
	"isdigit":   checkText(func(s string) bool { return allRunes(s, unicode.IsDigit) }),
	"islower":   checkText(func(s string) bool { return isUniform(s, unicode.IsLower) }),
	"isnumeric": checkText(func(s string) bool { return allRunes(s, unicode.IsNumber) }),
	"isspace":   checkText(func(s string) bool { return allRunes(s, isSpace) }),
	"isupper":   checkText(func(s string) bool { return isUniform(s, unicode.IsUpper) }),

	"strip":  stripText("strip", true, true),
	"lstrip": stripText("lstrip", true, false),
	"rstrip": stripText("rstrip", false, true),

	"split":      splitText("split", false),
	"rsplit":     splitText("rsplit", true),
	"splitlines": textSplitlines,
	"partition":  partitionText("partition", false),
	"rpartition": partitionText("rpartition", true),

	"startswith": affixText("startswith", strings.HasPrefix),
	"endswith":   affixText("endswith", strings.HasSuffix),
	"count":      textCount,
	"find":       findText("find", strings.Index, false),
	"rfind":      findText("rfind", strings.LastIndex, false),
	"index":      findText("index", strings.Index, true),
	"rindex":     findText("rindex", strings.LastIndex, true),

	"removeprefix": textRemovePrefix,
	"removesuffix": textRemoveSuffix,
	"replace":      textReplace,
	"join":         textJoin,
	"center":       padText("center", 1, 1),
	"ljust":        padText("ljust", 0, 1),
	"rjust":        padText("rjust", 1, 0),
	"zfill":        textZfill,
}

// mutators are methods that would change a list or dict; the sandbox refuses them.
var mutators = map[string][]string{
	"list": {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"},
	"dict": {"clear", "pop", "popitem", "setdefault", "update"},
}

// method returns the method of a value bound to it.
func method(of Value, name string) (Value, bool) {
	if slices.Contains(mutators[of.kind()], name) {
		return undefined{
			hint: fmt.Sprintf("attribute '%s' of '%s' object", name, of.kind()), unsafe: true,
		}, true
	}
	switch of := of.(type) {
	case text:
		f := textMethods[name]
		if name == "format" { // not in the table, because it looks methods up itself
			f = (*machine).braceFormat
		}
		if f != nil {
			return &function{name, func(m *machine, a args) (Value, error) {
				if err := m.step(len(of.s) / 16); err != nil {
					return nil, err
				}
				return f(m, of, a)
			}}, true
		}
	case *Dict:
		return dictMethod(of, name)
	case *list:
		return listMethod(of.items, name)
	case *tuple:
		return listMethod(of.items, name)
	}
	return nil, false
}

func dictMethod(d *Dict, name string) (Value, bool) {
	var contents func() []Value
	switch name {
	case "items":
		contents = d.pairs
	case "keys":
		contents = d.keys
	case "values":
		contents = d.values
	case "copy":
		return &function{name, func(*machine, args) (Value, error) { return d, nil }}, true
	case "get":
		return &function{name, func(m *machine, a args) (Value, error) {
			if len(a.kw) > 0 {
				return nil, typeError("dict.get() takes no keyword arguments")
			}
			b, err := a.bind("get", 1, "key", "default")
			if err != nil {
				return nil, err
			}
			v, found, err := m.get(d, b[0])
			if found || err != nil {
				return v, err
			}
			return orNone(b[1]), nil
		}}, true
	default:
		return nil, false
	}
	return &function{name, func(m *machine, a args) (Value, error) {
		if _, err := a.bind(name, 0); err != nil {
			return nil, err
		}
		if err := m.chargeItems(4 * d.Len()); err != nil {
			return nil, err
		}
		return &view{"dict_" + name, contents()}, nil
	}}, true
}

func listMethod(items []Value, name string) (Value, bool) {
	if name != "count" && name != "index" {
		return nil, false
	}
	return &function{name, func(m *machine, a args) (Value, error) {
		b, err := a.bind(name, 1, "value")
		if err != nil {
			return nil, err
		}
		count := 0
		for i, item := range items {
			same, err := m.equal(item, b[0], 0)
			if err != nil {
				return nil, err
			}
			if same && name == "index" {
				return integer(i), nil
			}
			if same {
				count++
			}
		}
		if name == "index" {
			return nil, errors.New("value is not in list")
		}
		return integer(count), nil
	}}, true
}

// mapText makes a method of a function whose result does not follow bytes.
func mapText(f func(string) string) textMethod {
	return func(m *machine, t text, a args) (Value, error) {
		if _, err := a.bind("method", 0); err != nil {
			return nil, err
		}
		if err := m.charge(3 * len(t.s)); err != nil { // case mappings grow at most threefold
			return nil, err
		}
		return derived(f(t.s), t), nil
	}
}

func checkText(f func(string) bool) textMethod {
	return func(_ *machine, t text, a args) (Value, error) {
		_, err := a.bind("method", 0)
		return boolean(f(t.s)), err
	}
}

// strip cuts whitespace, or the given characters, off t.
func (m *machine) strip(fn string, t text, chars Value, left, right bool) (Value, error) {
	drop := isSpace
	switch chars.(type) {
	case nil, none:
	default:
		set, err := textArg(fn, chars)
		if err != nil {
			return nil, err
		}
		if err := m.step(len(set.s)); err != nil {
			return nil, err
		}
		drop = runeSet(set.s)
	}
	return t.trim(drop, left, right), nil
}

// runeSet reports membership in a set of characters in constant time.
func runeSet(s string) func(rune) bool {
	if len(s) <= 16 {
		return func(r rune) bool { return strings.ContainsRune(s, r) }
	}
	set := map[rune]bool{}
	for _, r := range s {
		set[r] = true
	}
	return func(r rune) bool { return set[r] }
}

func stripText(fn string, left, right bool) textMethod {
	return func(m *machine, t text, a args) (Value, error) {
		b, err := a.bind(fn, 0, "chars")
		if err != nil {
			return nil, err
		}
		return m.strip(fn, t, b[0], left, right)
	}
}

func splitText(fn string, fromRight bool) textMethod {
	return func(m *machine, t text, a args) (Value, error) {
		b, err := a.bind(fn, 0, "sep", "maxsplit")
		if err != nil {
			return nil, err
		}
		limit, err := intArg(b[1], -1)
		if err != nil {
			return nil, err
		}
		switch b[0].(type) {
		case nil, none:
			if err := m.charge(len(t.s) / 2 * textBytes); err != nil {
				return nil, err
			}
			return m.texts(t.fields(limit, fromRight))
		}
		sep, err := textArg(fn, b[0])
		if err != nil {
			return nil, err
		}
		if sep.s == "" {
			return nil, errors.New("empty separator")
		}
		if err := m.chargeSplit(t, sep); err != nil {
			return nil, err
		}
		return m.texts(t.split(sep.s, limit, fromRight))
	}
}

func textSplitlines(m *machine, t text, a args) (Value, error) {
	b, err := a.bind("splitlines", 0, "keepends")
	if err != nil {
		return nil, err
	}
	if err := m.charge(textBytes * len(t.s)); err != nil {
		return nil, err
	}
	return m.texts(t.lines(boolArg(b[0], false)))
}

func partitionText(fn string, fromRight bool) textMethod {
	return func(_ *machine, t text, a args) (Value, error) {
		b, err := a.bind(fn, 1, "sep")
		if err != nil {
			return nil, err
		}
		sep, err := textArg(fn, b[0])
		if err != nil {
			return nil, err
		}
		if sep.s == "" {
			return nil, errors.New("empty separator")
		}
		i := strings.Index(t.s, sep.s)
		if fromRight {
			i = strings.LastIndex(t.s, sep.s)
		}
		j := i + len(sep.s)
		switch {
		case i >= 0:
			parts := []Value{t.slice(0, i), t.slice(i, j), t.slice(j, len(t.s))}
			return &tuple{items: parts}, nil
		case fromRight:
			return &tuple{items: []Value{own(""), own(""), t}}, nil
		}
		return &tuple{items: []Value{t, own(""), own("")}}, nil
	}
}

// within narrows t to the runes from start to end; offset counts the runes before.
func within(t text, start, end Value) (part text, offset int, err error) {
	bounds := [3]Value{orNone(start), orNone(end), none{}}
	i, j, _, err := sliceBounds(bounds, t.runeCount())
	if err != nil {
		return text{}, 0, err
	}
	from := byteIndex(t.s, i)
	return t.slice(from, from+byteIndex(t.s[from:], max(0, j-i))), i, nil
}

func affixText(fn string, has func(s, affix string) bool) textMethod {
	return func(_ *machine, t text, a args) (Value, error) {
		b, err := a.bind(fn, 1, "affix", "start", "end")
		if err != nil {
			return nil, err
		}
		if b[1] != nil || b[2] != nil {
			if t, _, err = within(t, b[1], b[2]); err != nil {
				return nil, err
			}
		}
		choices := []Value{b[0]}
		if several, ok := b[0].(*tuple); ok {
			choices = several.items
		}
		for _, c := range choices {
			affix, err := textArg(fn, c)
			if err != nil {
				return nil, err
			}
			if has(t.s, affix.s) {
				return boolean(true), nil
			}
		}
		return boolean(false), nil
	}
}

func textCount(_ *machine, t text, a args) (Value, error) {
	b, err := a.bind("count", 1, "sub", "start", "end")
	if err != nil {
		return nil, err
	}
	sub, err := textArg("count", b[0])
	if err != nil {
		return nil, err
	}
	t, _, err = within(t, b[1], b[2])
	return integer(strings.Count(t.s, sub.s)), err
}

func findText(fn string, find func(s, sub string) int, must bool) textMethod {
	return func(_ *machine, t text, a args) (Value, error) {
		b, err := a.bind(fn, 1, "sub", "start", "end")
		if err != nil {
			return nil, err
		}
		sub, err := textArg(fn, b[0])
		if err != nil {
			return nil, err
		}
		t, offset, err := within(t, b[1], b[2])
		if err != nil {
			return nil, err
		}
		at := find(t.s, sub.s)
		switch {
		case at >= 0:
			return integer(offset + utf8.RuneCountInString(t.s[:at])), nil
		case must:
			return nil, errors.New("substring not found")
		}
		return integer(-1), nil
	}
}

func textRemovePrefix(_ *machine, t text, a args) (Value, error) {
	affix, err := onlyText("removeprefix", a)
	if err != nil || !strings.HasPrefix(t.s, affix.s) {
		return t, err
	}
	return t.slice(len(affix.s), len(t.s)), nil
}

func textRemoveSuffix(_ *machine, t text, a args) (Value, error) {
	affix, err := onlyText("removesuffix", a)
	if err != nil || !strings.HasSuffix(t.s, affix.s) {
		return t, err
	}
	return t.slice(0, len(t.s)-len(affix.s)), nil
}

func onlyText(fn string, a args) (text, error) {
	b, err := a.bind(fn, 1, "affix")
	if err != nil {
		return text{}, err
	}
	return textArg(fn, b[0])
}

func textReplace(m *machine, t text, a args) (Value, error) {
	b, err := a.bind("replace", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	old, err := textArg("replace", b[0])
	if err != nil {
		return nil, err
	}
	new, err := textArg("replace", b[1])
	if err != nil {
		return nil, err
	}
	limit, err := intArg(b[2], -1)
	if err != nil {
		return nil, err
	}
	return m.replace(t, old, new, limit)
}

func textJoin(m *machine, sep text, a args) (Value, error) {
	b, err := a.bind("join", 1, "iterable")
	if err != nil {
		return nil, err
	}
	items, err := m.items(b[0])
	if err != nil {
		return nil, err
	}
	pieces := make([]text, len(items))
	for i, item := range items {
		if pieces[i], err = textArg("join", item); err != nil {
			return nil, err
		}
	}
	return m.joinTexts(sep, pieces)
}

// pad widens t to width characters; left and right are the shares of the missing ones.
func (m *machine) pad(t, fill text, width, left, right int) (text, error) {
	missing := width - t.runeCount()
	if missing <= 0 {
		return t, m.step(len(t.s) / 64)
	}
	before := missing
	switch {
	case left == 0:
		before = 0
	case right > 0:
		// Python puts the odd character to the left if the width is odd.
		before = missing/2 + missing&width&1
	}
	head, err := m.repeat(fill, before)
	if err != nil {
		return text{}, err
	}
	tail, err := m.repeat(fill, missing-before)
	if err != nil {
		return text{}, err
	}
	return m.concat(head, t, tail)
}

func padText(fn string, left, right int) textMethod {
	return func(m *machine, t text, a args) (Value, error) {
		b, err := a.bind(fn, 1, "width", "fillchar")
		if err != nil {
			return nil, err
		}
		width, err := intArg(b[0], 0)
		if err != nil {
			return nil, err
		}
		fill := own(" ")
		if b[1] != nil {
			if fill, err = textArg(fn, b[1]); err != nil {
				return nil, err
			}
		}
		if byteIndex(fill.s, 1) != len(fill.s) || fill.s == "" {
			return nil, typeError("%s(): the fill character must be one character", fn)
		}
		return m.pad(t, fill, width, left, right)
	}
}

func textZfill(m *machine, t text, a args) (Value, error) {
	b, err := a.bind("zfill", 1, "width")
	if err != nil {
		return nil, err
	}
	width, err := intArg(b[0], 0)
	if err != nil {
		return nil, err
	}
	sign := 0
	if strings.HasPrefix(t.s, "-") || strings.HasPrefix(t.s, "+") {
		sign = 1
	}
	digits, err := m.pad(t.slice(sign, len(t.s)), own("0"), width-sign, 1, 0)
	if err != nil {
		return nil, err
	}
	return m.concat(t.slice(0, sign), digits)
}
