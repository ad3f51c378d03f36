package jinja

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

var (
	integerPattern = regexp.MustCompile(
		`^(?i:0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*)`)
	floatPattern = regexp.MustCompile(
		`^(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+\-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)`)
)

// maxNumberChars bounds a number's spelling; Python's own limit for integers is 4300 digits.
const maxNumberChars = 4300

// number emits the number s begins with. After a dot, as in x.0.1, digits are an index.
func (l *lexer) number(s string) (int, error) {
	s = s[:min(len(s), maxNumberChars+1)]
	kind, n := tokFloat, 0
	if l.pos == 0 || l.source[l.pos-1] != '.' {
		n = len(floatPattern.FindString(s))
	}
	if n == 0 {
		kind, n = tokInteger, len(integerPattern.FindString(s))
	}
	if n > maxNumberChars {
		return 0, fmt.Errorf("number has more than %d characters", maxNumberChars)
	}
	l.emit(kind, strings.ReplaceAll(s[:n], "_", ""))
	return n, nil
}

// quoted emits the string literal s begins with.
func (l *lexer) quoted(s string) (int, error) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			value, err := unescape(s[1:i])
			if err != nil {
				return 0, err
			}
			l.emit(tokString, value)
			return i + 1, nil
		}
	}
	return 0, errors.New("string is not closed")
}

const simpleEscapes = "abfnrtv\\'\"\n"
const simpleValues = "\a\b\f\n\r\t\v\\'\""

// unescape resolves a literal's escapes as Python does; unknown ones stay as they are.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			i++
			continue
		}
		r, n, err := escape(s[i:])
		if err != nil {
			return "", err
		}
		if n == 0 {
			b.WriteByte('\\')
			i++
			continue
		}
		if r >= 0 {
			b.WriteRune(r)
		}
		i += n
	}
	return b.String(), nil
}

// escape decodes the escape at the start of s: its character and its length, 0 if it is none. A
// character below zero stands for nothing: an escaped newline.
func escape(s string) (rune, int, error) {
	if len(s) < 2 {
		return 0, 0, nil
	}
	c := s[1]
	if i := strings.IndexByte(simpleEscapes, c); i >= 0 {
		if i >= len(simpleValues) {
			return -1, 2, nil
		}
		return rune(simpleValues[i]), 2, nil
	}
	switch c {
	case 'x':
		return hexEscape(s, 2)
	case 'u':
		return hexEscape(s, 4)
	case 'U':
		return hexEscape(s, 8)
	case 'N':
		return 0, 0, errors.New(`escape \N{name} is not supported`)
	}
	n := 1
	for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n == 1 {
		return 0, 0, nil
	}
	v, err := strconv.ParseUint(s[1:n], 8, 16)
	return rune(v), n, err
}

// hexEscape decodes an escape of so many digits, or two that form a surrogate pair.
func hexEscape(s string, digits int) (rune, int, error) {
	r, ok := hexRune(s, digits)
	if !ok {
		return 0, 0, fmt.Errorf("malformed escape %.10q", s)
	}
	n := 2 + digits
	if utf16.IsSurrogate(r) {
		low, ok := hexRune(s[n:], 4)
		if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
			return 0, 0, fmt.Errorf("half a surrogate pair %.10q", s)
		}
		n += 6
	}
	return r, n, nil
}

func hexRune(s string, digits int) (rune, bool) {
	if len(s) < 2+digits || s[0] != '\\' {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:2+digits], 16, 32)
	return rune(v), err == nil && v <= utf8.MaxRune
}
