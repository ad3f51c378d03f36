package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// braceFormat is str.format: "{} {0} {name.attr[key]!r:>5}".
func (m *machine) braceFormat(format text, a args) (Value, error) {
	f := braceFormatter{m: m, format: format, args: a}
	b := builder{m: m}
	s := format.s
	for i := 0; i < len(s); {
		at := strings.IndexAny(s[i:], "{}")
		if at < 0 {
			at = len(s) - i
		}
		if err := b.add(format.slice(i, i+at)); err != nil {
			return nil, err
		}
		if i += at; i == len(s) {
			break
		}
		if i+1 < len(s) && s[i+1] == s[i] { // a doubled brace stands for itself
			if err := b.add(format.slice(i, i+1)); err != nil {
				return nil, err
			}
			i += 2
			continue
		}
		end := strings.IndexByte(s[i:], '}')
		if s[i] == '}' || end < 0 {
			return nil, errors.New("format: single brace")
		}
		piece, err := f.field(s[i+1 : i+end])
		if err != nil {
			return nil, err
		}
		if err := b.add(piece); err != nil {
			return nil, err
		}
		i += end + 1
	}
	return b.text(), nil
}

type braceFormatter struct {
	m      *machine
	format text
	args   args
	next   int // of the automatic numbers
}

// field formats what stands between braces.
func (f *braceFormatter) field(s string) (text, error) {
	if err := f.m.step(1); err != nil {
		return text{}, err
	}
	if strings.Contains(s, "{") {
		return text{}, errors.New("format: nested fields are not supported")
	}
	s, layout, _ := strings.Cut(s, ":")
	s, conversion, converted := strings.Cut(s, "!")
	v, err := f.value(s)
	if err != nil {
		return text{}, err
	}
	if converted {
		write := f.m.str
		if conversion == "r" {
			write = f.m.repr
		} else if conversion != "s" {
			return text{}, fmt.Errorf("format: unknown conversion %.10q", conversion)
		}
		if v, err = write(v); err != nil {
			return text{}, err
		}
	}
	return f.write(v, layout)
}

// value looks a field's name up.
func (f *braceFormatter) value(s string) (Value, error) {
	n := strings.IndexAny(s, ".[")
	if n < 0 {
		n = len(s)
	}
	v, err := f.argument(s[:n])
	for s = s[n:]; err == nil && s != ""; s = s[n:] {
		if s[0] == '[' {
			if n = strings.IndexByte(s, ']'); n < 0 {
				return nil, errors.New("format: missing ']'")
			}
			var key Value = own(s[1:n])
			if i, err := strconv.Atoi(s[1:n]); err == nil {
				key = integer(i)
			}
			n++
			v, err = f.m.item(v, key)
			continue
		}
		if n = strings.IndexAny(s[1:], ".[") + 1; n == 0 {
			n = len(s)
		}
		v, err = f.m.attr(v, s[1:n])
	}
	return v, err
}

func (f *braceFormatter) argument(name string) (Value, error) {
	i, err := strconv.Atoi(name)
	if name == "" {
		i, err = f.next, nil
		f.next++
	}
	if err == nil {
		if i < 0 || i >= len(f.args.pos) {
			return nil, fmt.Errorf("format: no argument %d", i)
		}
		return f.args.pos[i], nil
	}
	for _, kw := range f.args.kw {
		if kw.name.s == name {
			return kw.value, nil
		}
	}
	return nil, fmt.Errorf("format: no argument '%s'", name)
}

func (f *braceFormatter) write(v Value, layout string) (text, error) {
	if u, ok := v.(undefined); ok && layout != "" {
		return text{}, u.err()
	}
	if layout == "" {
		return f.m.str(v)
	}
	sp, err := parseSpec(layout)
	if err != nil {
		return text{}, err
	}
	_, isBool := v.(boolean)
	if isNumber(v) && (!isBool || sp.verb != 0) {
		if sp.align == 0 {
			sp.align = '>'
		}
		_, isInt := asInt(v)
		if isInt && sp.verb == 0 {
			sp.verb = 'd'
		}
		return f.m.formatNumber(sp, v, 0, f.format)
	}
	t, ok := v.(text)
	if !ok || sp.verb != 0 && sp.verb != 's' || sp.align == '=' || sp.sign != 0 {
		return text{}, typeError("format: '%s' does not fit %s", layout, v.kind())
	}
	return f.m.formatText(sp, t, f.format)
}

// parseSpec reads [[fill]align][sign][#][0][width][grouping][.precision][type].
func parseSpec(s string) (spec, error) {
	sp := spec{fill: " ", precision: -1}
	aligns := func(i int) bool { return i < len(s) && strings.IndexByte("<>^=", s[i]) >= 0 }
	if n := byteIndex(s, 1); aligns(n) {
		sp.fill, sp.align, s = s[:n], s[n], s[n+1:]
	} else if aligns(0) {
		sp.align, s = s[0], s[1:]
	}
	if s != "" && strings.IndexByte("+- ", s[0]) >= 0 {
		if s[0] != '-' {
			sp.sign = s[0]
		}
		s = s[1:]
	}
	if strings.HasPrefix(s, "#") {
		sp.alternate, s = true, s[1:]
	}
	if strings.HasPrefix(s, "0") {
		if sp.align == 0 {
			sp.align, sp.fill = '=', "0"
		}
		s = s[1:]
	}
	n, length, err := leadingInt(s)
	if err != nil {
		return sp, err
	}
	sp.width, s = n, s[length:]
	if s != "" && (s[0] == ',' || s[0] == '_') {
		sp.grouping, s = s[0], s[1:]
	}
	if strings.HasPrefix(s, ".") {
		if sp.precision, length, err = leadingInt(s[1:]); err != nil {
			return sp, err
		}
		s = s[1+length:]
	}
	if len(s) > 1 {
		return sp, fmt.Errorf("format: malformed specifier %.20q", s)
	}
	if s != "" {
		sp.verb = s[0]
	}
	return sp, nil
}
