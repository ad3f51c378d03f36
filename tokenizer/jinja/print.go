package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// str is Python's str(): how a value prints.
func (m *machine) str(v Value) (text, error) {
	switch v := v.(type) {
	case text:
		return v, nil
	case undefined:
		return own(""), nil
	case integer:
		return own(strconv.FormatInt(int64(v), 10)), nil
	}
	return m.repr(v)
}

// repr is Python's repr().
func (m *machine) repr(v Value) (text, error) {
	p := printer{m: m, clean: true}
	if err := p.repr(v, 0); err != nil {
		return text{}, err
	}
	return p.text(), nil
}

// printer writes a value whose bytes are not followed: one untrusted string inside makes the
// whole untrusted (R1).
type printer struct {
	m     *machine
	b     strings.Builder
	clean bool
}

func (p *printer) text() text { return text{s: p.b.String(), trusted: p.clean || p.b.Len() == 0} }

func (p *printer) write(s string) error {
	if p.b.Len()+len(s) > p.m.maxBytes {
		return fmt.Errorf("text longer than %d bytes: %w", p.m.maxBytes, ErrBudget)
	}
	if err := p.m.charge(len(s)); err != nil {
		return err
	}
	p.b.WriteString(s)
	return nil
}

// enter checks a value before it is walked.
func (p *printer) enter(depth int) error {
	if depth > maxValueDepth {
		return errValueDepth
	}
	return p.m.step(1)
}

func (p *printer) repr(v Value, depth int) error {
	if err := p.enter(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case text:
		p.clean = p.clean && v.clean()
		return p.write(reprString(v.s))
	case *list:
		return p.reprItems("[", v.items, "]", depth)
	case *tuple:
		end := ")"
		if len(v.items) == 1 {
			end = ",)"
		}
		return p.reprItems("(", v.items, end, depth)
	case *view:
		return p.reprItems(v.name+"([", v.items, "])", depth)
	case *namespace:
		if err := p.write("<Namespace "); err != nil {
			return err
		}
		if err := p.reprDict(v.attrs, depth); err != nil {
			return err
		}
		return p.write(">")
	case *Dict:
		return p.reprDict(v, depth)
	}
	s, err := reprScalar(v)
	if err != nil {
		return err
	}
	return p.write(s)
}

// reprScalar prints a value without parts.
func reprScalar(v Value) (string, error) {
	switch v := v.(type) {
	case none:
		return "None", nil
	case undefined:
		return "Undefined", nil
	case boolean:
		if v {
			return "True", nil
		}
		return "False", nil
	case integer:
		return strconv.FormatInt(int64(v), 10), nil
	case bigint:
		return v.String(), nil
	case float:
		return floatString(float64(v)), nil
	case interval:
		if v.step == 1 {
			return fmt.Sprintf("range(%d, %d)", v.start, v.stop), nil
		}
		return fmt.Sprintf("range(%d, %d, %d)", v.start, v.stop, v.step), nil
	case *macro:
		return "<Macro " + reprString(v.name) + ">", nil
	case *loop:
		return fmt.Sprintf("<LoopContext %d/%d>", v.index+1, v.index+1+len(v.ahead)), nil
	}
	return "", typeError("a %s has no text: use a filter such as list or join", v.kind())
}

func (p *printer) reprItems(open string, items []Value, end string, depth int) error {
	if err := p.write(open); err != nil {
		return err
	}
	for i, item := range items {
		if i > 0 {
			if err := p.write(", "); err != nil {
				return err
			}
		}
		if err := p.repr(item, depth+1); err != nil {
			return err
		}
	}
	return p.write(end)
}

func (p *printer) reprDict(d *Dict, depth int) error {
	for i, en := range d.entries {
		sep := ", "
		if i == 0 {
			sep = "{"
		}
		if err := p.write(sep); err != nil {
			return err
		}
		if err := p.repr(en.key, depth+1); err != nil {
			return err
		}
		if err := p.write(": "); err != nil {
			return err
		}
		if err := p.repr(en.value, depth+1); err != nil {
			return err
		}
	}
	if d.Len() == 0 {
		return p.write("{}")
	}
	return p.write("}")
}

// reprString quotes s as Python does.
func reprString(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b := make([]byte, 0, len(s)+2)
	b = append(b, quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\r':
			b = append(b, '\\', 'r')
		case r == '\t':
			b = append(b, '\\', 't')
		case unicode.IsPrint(r):
			b = append(b, string(r)...)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return string(append(b, quote))
}

// floatString is Python's repr of a float: the shortest digits that read back, with an exponent
// below 1e-4 and from 1e16 on.
func floatString(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
