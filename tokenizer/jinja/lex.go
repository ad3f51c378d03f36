package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEOF tokenKind = iota
	tokData
	tokVariableBegin
	tokVariableEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInteger
	tokFloat
	tokOperator
)

// token is a piece of a template. Its text is decoded for strings, and without underscores for
// numbers.
type token struct {
	kind tokenKind
	text string
	line int
}

// describe names a token in an error message.
func (t token) describe() string {
	switch t.kind {
	case tokEOF:
		return "end of template"
	case tokData:
		return "template text"
	case tokVariableBegin:
		return "'{{'"
	case tokVariableEnd:
		return "'}}'"
	case tokBlockBegin:
		return "'{%'"
	case tokBlockEnd:
		return "'%}'"
	}
	return fmt.Sprintf("%.40q", t.text)
}

// lexer cuts a template into tokens.
type lexer struct {
	source string
	pos    int
	line   int
	// lineStart is true where the last tag took the newline after it: whitespace up to the next
	// tag then fills the line's start.
	lineStart bool
	tokens    []token
}

// lex returns the tokens of source, or the line at which it breaks off.
func lex(source string) ([]token, int, error) {
	source = strings.ReplaceAll(source, "\r\n", "\n")
	source = strings.ReplaceAll(source, "\r", "\n")
	source = strings.TrimSuffix(source, "\n")
	l := &lexer{source: source, line: 1, lineStart: true}
	for l.pos < len(l.source) {
		if err := l.text(); err != nil {
			return nil, l.line, err
		}
	}
	l.emit(tokEOF, "")
	return l.tokens, l.line, nil
}

func (l *lexer) rest() string { return l.source[l.pos:] }

func (l *lexer) emit(kind tokenKind, s string) {
	l.tokens = append(l.tokens, token{kind, s, l.line})
}

// advance moves over n bytes and counts lines.
func (l *lexer) advance(n int) {
	passed := l.source[l.pos : l.pos+n]
	l.line += strings.Count(passed, "\n")
	l.pos += n
	l.lineStart = strings.HasSuffix(passed, "\n")
}

// nextTag returns where in s the next tag begins, or -1.
func nextTag(s string) int {
	for at := 0; ; {
		i := strings.IndexByte(s[at:], '{')
		if i < 0 || at+i+1 >= len(s) {
			return -1
		}
		at += i
		if c := s[at+1]; c == '{' || c == '%' || c == '#' {
			return at
		}
		at++
	}
}

// text reads template text up to the next tag, and that tag.
func (l *lexer) text() error {
	s := l.rest()
	at := nextTag(s)
	if at < 0 {
		l.emit(tokData, s)
		l.advance(len(s))
		return nil
	}
	open := s[at : at+2]
	sign := signAfter(s, at+2)
	l.data(s[:at], sign, open != "{{")
	l.advance(2 + len(sign))
	switch open {
	case "{#":
		return l.comment()
	case "{{":
		l.emit(tokVariableBegin, "")
		return l.tag("}}", tokVariableEnd)
	}
	if n := rawHead(l.rest()); n > 0 {
		l.advance(n)
		return l.raw()
	}
	l.emit(tokBlockBegin, "")
	return l.tag("%}", tokBlockEnd)
}

// signAfter returns the whitespace sign at position i: "-", "+" or "".
func signAfter(s string, i int) string {
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		return s[i : i+1]
	}
	return ""
}

// data emits the text before a tag, cut as the tag's sign and lstrip_blocks demand, and moves
// past it.
func (l *lexer) data(s, sign string, strip bool) {
	kept := s
	switch {
	case sign == "-":
		kept = strings.TrimRightFunc(s, isSpace)
	case sign == "" && strip:
		start := strings.LastIndexByte(s, '\n') + 1
		if (start > 0 || l.lineStart) && strings.TrimLeftFunc(s[start:], isSpace) == "" {
			kept = s[:start]
		}
	}
	if kept != "" {
		l.emit(tokData, kept)
	}
	l.advance(len(s))
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// spaceLen is the length of the whitespace s begins with.
func spaceLen(s string) int { return len(s) - len(strings.TrimLeftFunc(s, isSpace)) }

// endLen returns how many bytes the tag end (such as "%}") at the start of s takes together with
// its sign and the whitespace it eats; 0 if there is none.
func endLen(s, end string, trimNewline bool) int {
	switch {
	case strings.HasPrefix(s, "-"+end):
		return 3 + spaceLen(s[3:])
	case trimNewline && strings.HasPrefix(s, "+"+end):
		return 3
	case !strings.HasPrefix(s, end):
		return 0
	case trimNewline && strings.HasPrefix(s[2:], "\n"):
		return 3
	}
	return 2
}

func (l *lexer) comment() error {
	s := l.rest()
	end := strings.Index(s, "#}")
	if end < 0 {
		return errors.New("comment is not closed with '#}'")
	}
	// The sign belongs to the end unless the comment is empty and it was the start's.
	if end > 0 && (s[end-1] == '-' || s[end-1] == '+') {
		end--
	}
	l.advance(end + endLen(s[end:], "#}", true))
	return nil
}

// rawHead returns the length of " raw %}" at the start of s, or 0.
func rawHead(s string) int {
	n := spaceLen(s)
	if !strings.HasPrefix(s[n:], "raw") {
		return 0
	}
	n += len("raw")
	n += spaceLen(s[n:])
	if e := endLen(s[n:], "%}", false); e > 0 {
		return n + e
	}
	return 0
}

// raw reads text up to the endraw tag.
func (l *lexer) raw() error {
	s := l.rest()
	for at := 0; ; at += 2 {
		i := strings.Index(s[at:], "{%")
		if i < 0 {
			return errors.New("raw block is not closed with '{% endraw %}'")
		}
		at += i
		sign := signAfter(s, at+2)
		n := at + 2 + len(sign)
		n += spaceLen(s[n:])
		if !strings.HasPrefix(s[n:], "endraw") {
			continue
		}
		n += len("endraw")
		n += spaceLen(s[n:])
		e := endLen(s[n:], "%}", true)
		if e == 0 {
			continue
		}
		l.data(s[:at], sign, true)
		l.advance(n + e - at)
		return nil
	}
}

// tag reads the tokens inside a tag. Its end only counts outside brackets.
func (l *lexer) tag(end string, kind tokenKind) error {
	var open []byte
	for l.pos < len(l.source) {
		s := l.rest()
		if len(open) == 0 {
			if n := endLen(s, end, kind == tokBlockEnd); n > 0 {
				l.emit(kind, "")
				l.advance(n)
				return nil
			}
		}
		if n := spaceLen(s); n > 0 {
			l.advance(n)
			continue
		}
		n, err := l.token(s)
		if err != nil {
			return err
		}
		switch c := s[0]; {
		case n != 1:
		case c == '(' || c == '[' || c == '{':
			open = append(open, c)
		case c == ')' || c == ']' || c == '}':
			if len(open) == 0 || open[len(open)-1] != opener(c) {
				return fmt.Errorf("unexpected '%c'", c)
			}
			open = open[:len(open)-1]
		}
		l.advance(n)
	}
	return fmt.Errorf("tag is not closed with '%s'", end)
}

func opener(c byte) byte {
	switch c {
	case ')':
		return '('
	case ']':
		return '['
	}
	return '{'
}

// token emits the token s begins with and returns its length.
func (l *lexer) token(s string) (int, error) {
	r, _ := utf8.DecodeRuneInString(s)
	switch {
	case r >= '0' && r <= '9':
		return l.number(s)
	case r == '\'' || r == '"':
		return l.quoted(s)
	case r == '_' || unicode.IsLetter(r):
		n := strings.IndexFunc(s, func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
		})
		if n < 0 {
			n = len(s)
		}
		l.emit(tokName, s[:n])
		return n, nil
	}
	if len(s) >= 2 {
		switch s[:2] {
		case "//", "**", "==", "!=", ">=", "<=":
			l.emit(tokOperator, s[:2])
			return 2, nil
		}
	}
	if strings.ContainsRune("+-/*%~[](){}><=.:|,", r) {
		l.emit(tokOperator, s[:1])
		return 1, nil
	}
	return 0, fmt.Errorf("unexpected character %q", r)
}
