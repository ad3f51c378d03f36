package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxFormatWidth bounds widths and precisions in formats.
const maxFormatWidth = 1000

// spec says how a value is written: flags, width and precision of both format languages.
type spec struct {
	fill      string // one character
	align     byte   // '<', '>', '^', '=' or 0
	sign      byte   // '+', ' ' or 0
	alternate bool
	grouping  byte // ',' or '_' or 0
	width     int
	precision int // -1 if not given
	verb      byte
}

// plain reports whether the spec leaves text as it is.
func (s spec) plain() bool { return s.width == 0 && s.precision < 0 }

// leadingInt reads the digits s begins with.
func leadingInt(s string) (n, length int, err error) {
	for length < len(s) && s[length] >= '0' && s[length] <= '9' {
		if n = 10*n + int(s[length]-'0'); n > maxFormatWidth {
			return 0, 0, fmt.Errorf("width or precision above %d: %w", maxFormatWidth, ErrBudget)
		}
		length++
	}
	return n, length, nil
}

// percentFormat is "format % value".
func (m *machine) percentFormat(format text, v Value) (Value, error) {
	p := percentFormatter{m: m, format: format, value: v}
	p.items, p.next = []Value{v}, 0
	if t, ok := v.(*tuple); ok {
		p.items = t.items
	}
	b := builder{m: m}
	for i := 0; i < len(format.s); {
		at := strings.IndexByte(format.s[i:], '%')
		if at < 0 {
			at = len(format.s) - i
		}
		if err := b.add(format.slice(i, i+at)); err != nil {
			return nil, err
		}
		if i += at; i == len(format.s) {
			break
		}
		piece, n, err := p.directive(format.s[i:])
		if err != nil {
			return nil, err
		}
		if err := b.add(piece); err != nil {
			return nil, err
		}
		i += n
	}
	spare := false // Python takes what has keys or positions for a mapping
	switch v.(type) {
	case *Dict, *list, interval:
		spare = true
	}
	if p.next < len(p.items) && !spare {
		return nil, typeError("not all arguments converted during string formatting")
	}
	return b.text(), nil
}

type percentFormatter struct {
	m      *machine
	format text
	value  Value
	items  []Value
	next   int
}

// directive formats the directive at the start of s and returns its length.
func (p *percentFormatter) directive(s string) (text, int, error) {
	if err := p.m.step(1); err != nil {
		return text{}, 0, err
	}
	sp, n, arg := spec{fill: " ", align: '>', precision: -1}, 1, Value(nil)
	if strings.HasPrefix(s[n:], "(") {
		end := strings.IndexByte(s, ')')
		d, ok := p.value.(*Dict)
		if end < 0 || !ok {
			return text{}, 0, typeError("format requires a mapping")
		}
		v, found := d.Get(s[n+1 : end])
		if !found {
			return text{}, 0, fmt.Errorf("format: no key '%s'", s[n+1:end])
		}
		arg, n = v, end+1
	}
	n = p.flags(&sp, s, n)
	width, length, err := leadingInt(s[n:])
	if err != nil {
		return text{}, 0, err
	}
	sp.width, n = width, n+length
	if strings.HasPrefix(s[n:], ".") {
		if sp.precision, length, err = leadingInt(s[n+1:]); err != nil {
			return text{}, 0, err
		}
		n += 1 + length
	}
	if n >= len(s) {
		return text{}, 0, errors.New("incomplete format")
	}
	sp.verb = s[n]
	if sp.verb == '%' {
		return derived("%", p.format), n + 1, nil
	}
	if arg == nil {
		if p.next >= len(p.items) {
			return text{}, 0, typeError("not enough arguments for format string")
		}
		arg = p.items[p.next]
		p.next++
	}
	t, err := p.write(sp, arg)
	return t, n + 1, err
}

func (p *percentFormatter) flags(sp *spec, s string, n int) int {
	for ; n < len(s); n++ {
		switch s[n] {
		case '-':
			sp.align, sp.fill = '<', " "
		case '0':
			if sp.align != '<' {
				sp.align, sp.fill = '=', "0"
			}
		case '+':
			sp.sign = '+'
		case ' ':
			if sp.sign == 0 {
				sp.sign = ' '
			}
		case '#':
			sp.alternate = true
		default:
			return n
		}
	}
	return n
}

func (p *percentFormatter) write(sp spec, v Value) (text, error) {
	switch sp.verb {
	case 's', 'r':
		write := p.m.str
		if sp.verb == 'r' {
			write = p.m.repr
		}
		t, err := write(v)
		if err != nil {
			return text{}, err
		}
		if sp.align == '=' {
			sp.align, sp.fill = '>', " "
		}
		return p.m.formatText(sp, t, p.format)
	case 'd', 'i', 'u', 'x', 'X', 'o':
		if f, ok := v.(float); ok && strings.IndexByte("diu", sp.verb) >= 0 {
			if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
				return text{}, errors.New("cannot convert float to integer")
			}
			i, _ := big.NewFloat(float64(f)).Int(nil)
			v = normalInt(i)
		}
		if _, ok := asInt(v); !ok {
			return text{}, typeError("%%%c format: a number is required, not %s", sp.verb, v.kind())
		}
		if sp.verb == 'i' || sp.verb == 'u' {
			sp.verb = 'd'
		}
		// The precision is a number of digits here.
		digits := max(sp.precision, 0)
		sp.precision = -1
		return p.m.formatNumber(sp, v, digits, p.format)
	case 'f', 'F', 'e', 'E', 'g', 'G':
		return p.m.formatNumber(sp, v, 0, p.format)
	case 'c':
		t, err := charOf(v)
		if err != nil {
			return text{}, err
		}
		sp.precision = -1
		return p.m.formatText(sp, t, p.format)
	}
	return text{}, fmt.Errorf("unsupported format character %q", sp.verb)
}

// charOf is what %c writes. A number that becomes a character counts as the request's (R1): text
// could be spelled with numbers.
func charOf(v Value) (text, error) {
	if t, ok := v.(text); ok && t.runeCount() == 1 {
		return t, nil
	}
	i, ok := v.(integer)
	if !ok || i < 0 || i > utf8.MaxRune || !utf8.ValidRune(rune(i)) {
		return text{}, typeError("%%c requires a character, got %s", v.kind())
	}
	return foreign(string(rune(i))), nil
}

// formatText pads and cuts t; format is where the spec was written.
func (m *machine) formatText(sp spec, t, format text) (text, error) {
	if sp.plain() {
		return t, nil
	}
	if sp.precision >= 0 {
		t = t.slice(0, byteIndex(t.s, sp.precision))
	}
	missing := max(0, sp.width-t.runeCount())
	before := 0
	switch sp.align {
	case '>':
		before = missing
	case '^':
		before = missing / 2
	}
	if err := m.charge(len(t.s) + missing*len(sp.fill)); err != nil {
		return text{}, err
	}
	s := strings.Repeat(sp.fill, before) + t.s + strings.Repeat(sp.fill, missing-before)
	return derived(s, t, format), nil
}

// formatNumber writes v with at least so many digits.
func (m *machine) formatNumber(sp spec, v Value, digits int, format text) (text, error) {
	body, err := numberBody(sp, v)
	if err != nil {
		return text{}, err
	}
	sign := ""
	if strings.HasPrefix(body, "-") {
		sign, body = "-", body[1:]
	} else if sp.sign != 0 {
		sign = string(sp.sign)
	}
	body = strings.Repeat("0", max(0, digits-len(body))) + body
	if sp.grouping != 0 {
		body = group(body, sp.grouping)
	}
	if sp.alternate && strings.IndexByte("xXob", sp.verb) >= 0 {
		sign += "0" + string(sp.verb)
	}
	if sp.align == '=' {
		missing := max(0, sp.width-len(sign)-utf8.RuneCountInString(body))
		if err := m.charge(missing * len(sp.fill)); err != nil {
			return text{}, err
		}
		return derived(sign+strings.Repeat(sp.fill, missing)+body, format), nil
	}
	sp.precision = -1
	return m.formatText(sp, derived(sign+body, format), format)
}

// numberBody writes v without padding.
func numberBody(sp spec, v Value) (string, error) {
	base := map[byte]int{'d': 10, 'n': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[sp.verb]
	if i, ok := asInt(v); ok && base != 0 {
		s := asBig(i).Text(base)
		if sp.verb == 'X' {
			s = strings.ToUpper(s)
		}
		return s, nil
	}
	f, ok := asFloat(v)
	if !ok || base != 0 {
		return "", typeError("format '%c' does not fit %s", sp.verb, v.kind())
	}
	precision := sp.precision
	if precision < 0 {
		precision = 6
	}
	suffix := ""
	if sp.verb == '%' {
		f, sp.verb, suffix = f*100, 'f', "%"
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		s := floatString(f)
		if sp.verb >= 'A' && sp.verb <= 'Z' {
			s = strings.ToUpper(s)
		}
		return s + suffix, nil
	}
	switch sp.verb {
	case 'f', 'F':
		return strconv.FormatFloat(f, 'f', precision, 64) + suffix, nil
	case 'e', 'E':
		return strconv.FormatFloat(f, sp.verb, precision, 64), nil
	case 'g', 'G':
		s := generalFloat(f, max(precision, 1))
		if sp.verb == 'G' {
			s = strings.ToUpper(s)
		}
		return s, nil
	case 0:
		if sp.precision < 0 {
			return floatString(f), nil
		}
		s := generalFloat(f, max(precision, 1))
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		return s, nil
	}
	return "", fmt.Errorf("unknown format code %q for a number", sp.verb)
}

// generalFloat is C's %g: precision significant digits without trailing zeros.
func generalFloat(f float64, precision int) string {
	s := strconv.FormatFloat(f, 'e', precision-1, 64)
	mantissa, exponent, _ := strings.Cut(s, "e")
	e, err := strconv.Atoi(exponent)
	if err != nil {
		return s
	}
	if e < -4 || e >= precision {
		if strings.Contains(mantissa, ".") {
			mantissa = strings.TrimRight(strings.TrimRight(mantissa, "0"), ".")
		}
		return mantissa + "e" + exponent
	}
	s = strconv.FormatFloat(f, 'f', max(0, precision-1-e), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// group puts a separator between groups of three digits.
func group(s string, sep byte) string {
	whole := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if whole < 0 {
		whole = len(s)
	}
	var b strings.Builder
	for i := range whole {
		if i > 0 && (whole-i)%3 == 0 {
			b.WriteByte(sep)
		}
		b.WriteByte(s[i])
	}
	return b.String() + s[whole:]
}
