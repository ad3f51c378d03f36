package jinja

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting that ParseJSON accepts.
const maxJSONDepth = 200

// ParseJSON turns one JSON value into an untrusted Value. Objects keep the order of their keys
// (of equal keys the last value counts), and 1 stays apart from 1.0.
func ParseJSON(b []byte) (Value, error) {
	p := &jsonParser{s: toValid(string(b))}
	v, err := p.value(0)
	if err == nil {
		if p.space(); p.pos < len(p.s) {
			err = errors.New("text after the value")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("parse JSON at byte %d: %w", p.pos, err)
	}
	return v, nil
}

type jsonParser struct {
	s   string
	pos int
}

func (p *jsonParser) space() {
	for p.pos < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.pos]) >= 0 {
		p.pos++
	}
}

// skip moves past c if it comes next.
func (p *jsonParser) skip(c byte) bool {
	p.space()
	if p.pos < len(p.s) && p.s[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *jsonParser) value(depth int) (Value, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxJSONDepth)
	}
	switch {
	case p.skip('{'):
		return p.object(depth)
	case p.skip('['):
		return p.array(depth)
	case p.skip('"'):
		s, err := p.str()
		return foreign(s), err
	case p.pos >= len(p.s):
		return nil, errors.New("unexpected end")
	}
	for word, v := range map[string]Value{
		"null": none{}, "true": boolean(true), "false": boolean(false),
	} {
		if strings.HasPrefix(p.s[p.pos:], word) {
			p.pos += len(word)
			return v, nil
		}
	}
	return p.number()
}

func (p *jsonParser) object(depth int) (Value, error) {
	d := NewDict()
	if p.skip('}') {
		return d, nil
	}
	for {
		if !p.skip('"') {
			return nil, errors.New("expected a key in quotes")
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if !p.skip(':') {
			return nil, errors.New("expected ':'")
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		d.set("s"+key, foreign(key), v)
		if p.skip('}') {
			return d, nil
		}
		if !p.skip(',') {
			return nil, errors.New("expected ',' or '}'")
		}
	}
}

func (p *jsonParser) array(depth int) (Value, error) {
	l := &list{}
	if p.skip(']') {
		return l, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, v)
		if p.skip(']') {
			return l, nil
		}
		if !p.skip(',') {
			return nil, errors.New("expected ',' or ']'")
		}
	}
}

// number reads -?int[.digits][e[+-]digits] without leading zeros.
func (p *jsonParser) number() (Value, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for p.pos < len(p.s) && p.s[p.pos] >= '0' && p.s[p.pos] <= '9' {
			p.pos++
		}
		return p.pos > from
	}
	next := func(any string) bool {
		if p.pos < len(p.s) && strings.IndexByte(any, p.s[p.pos]) >= 0 {
			p.pos++
			return true
		}
		return false
	}
	next("-")
	first := p.pos
	if !digits() {
		return nil, errors.New("expected a value")
	}
	if p.s[first] == '0' && p.pos > first+1 {
		return nil, errors.New("number with a leading zero")
	}
	whole := true
	if next(".") {
		if whole = false; !digits() {
			return nil, errors.New("expected digits after '.'")
		}
	}
	if next("eE") {
		whole = false
		if next("+-"); !digits() {
			return nil, errors.New("expected digits in the exponent")
		}
	}
	return jsonNumber(p.s[start:p.pos], whole)
}

func jsonNumber(s string, whole bool) (Value, error) {
	if len(s) > maxNumberChars {
		return nil, fmt.Errorf("number has more than %d characters", maxNumberChars)
	}
	if !whole {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, errors.New("number out of range")
		}
		return float(f), nil
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return integer(i), nil
	}
	i, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, errors.New("malformed number")
	}
	return normalInt(i), nil
}

// str reads a string after its opening quote.
func (p *jsonParser) str() (string, error) {
	start := p.pos
	for p.pos < len(p.s) && p.s[p.pos] != '"' && p.s[p.pos] != '\\' && p.s[p.pos] >= ' ' {
		p.pos++
	}
	if p.pos < len(p.s) && p.s[p.pos] == '"' {
		p.pos++
		return p.s[start : p.pos-1], nil
	}
	b := []byte(p.s[start:p.pos])
	for p.pos < len(p.s) {
		c := p.s[p.pos]
		switch {
		case c == '"':
			p.pos++
			return string(b), nil
		case c < ' ':
			return "", errors.New("control character in a string")
		case c != '\\':
			b = append(b, c)
			p.pos++
			continue
		}
		r, err := p.escape()
		if err != nil {
			return "", err
		}
		b = utf8.AppendRune(b, r)
	}
	return "", errors.New("string is not closed")
}

// escape reads an escape sequence. Half a surrogate pair becomes U+FFFD.
func (p *jsonParser) escape() (rune, error) {
	s := p.s[p.pos:]
	if len(s) >= 2 {
		if i := strings.IndexByte(`"\/nrtbf`, s[1]); i >= 0 {
			p.pos += 2
			return rune("\"\\/\n\r\t\b\f"[i]), nil
		}
	}
	if len(s) < 2 || s[1] != 'u' {
		return 0, errors.New("unknown escape")
	}
	r, ok := hexRune(s, 4)
	if !ok {
		return 0, errors.New(`malformed \u escape`)
	}
	p.pos += 6
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	if s = p.s[p.pos:]; strings.HasPrefix(s, `\u`) {
		if low, ok := hexRune(s, 4); ok {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				p.pos += 6
				return pair, nil
			}
		}
	}
	return utf8.RuneError, nil
}
