package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// strictJSON walks one JSON document that is known to be well-formed and UTF-8. It
// allocates only what its caller keeps, so a large header costs little more than
// itself. Callers refuse a key that stands twice in an object (see twice), which
// encoding/json would let pass.
type strictJSON struct {
	rest []byte
}

func newStrictJSON(b []byte) (*strictJSON, error) {
	if len(b) == 0 {
		return nil, errors.New("is empty")
	}
	if !utf8.Valid(b) {
		return nil, errors.New("not valid JSON: the text is not UTF-8")
	}
	if !json.Valid(b) {
		return nil, fmt.Errorf("not valid JSON: %w", syntaxError(b))
	}
	return &strictJSON{b}, nil
}

// syntaxError says what is wrong with b, and where.
func syntaxError(b []byte) error {
	var skip json.RawMessage
	err := json.Unmarshal(b, &skip)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w at byte %d", err, syntax.Offset)
	}
	return err
}

// peek returns the first byte of the next token. The document is well-formed, so
// there is one wherever a caller expects it, and separators say nothing.
func (s *strictJSON) peek() byte {
	s.rest = bytes.TrimLeft(s.rest, " \t\r\n,:")
	return s.rest[0]
}

// take returns the first n bytes and goes past them.
func (s *strictJSON) take(n int) []byte {
	taken := s.rest[:n]
	s.rest = s.rest[n:]
	return taken
}

// scalar returns the bytes of the number, truth value or null that comes next.
func (s *strictJSON) scalar() []byte {
	s.peek()
	n := bytes.IndexAny(s.rest, " \t\r\n,:]}")
	if n < 0 {
		n = len(s.rest)
	}
	return s.take(n)
}

// quoted returns the string that comes next.
func (s *strictJSON) quoted() (string, error) {
	s.peek()
	n, escaped := 1, false
	for ; s.rest[n] != '"'; n++ {
		if s.rest[n] == '\\' {
			escaped = true
			n++
		}
	}
	raw := s.take(n + 1)
	if !escaped {
		return string(raw[1:n]), nil
	}
	var text string
	err := json.Unmarshal(raw, &text)
	return text, err
}

// object reads an object and calls member for each key; member reads the value.
func (s *strictJSON) object(member func(key string) error) error {
	if s.peek() != '{' {
		return s.not("an object")
	}
	s.take(1)
	for s.peek() != '}' {
		key, err := s.quoted()
		if err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
	}
	s.take(1)
	return nil
}

// not returns the error of a value that is not what it must be.
func (s *strictJSON) not(what string) error {
	found := "an object"
	switch s.peek() {
	case '{':
	case '[':
		found = "a list"
	case '"':
		text, err := s.quoted()
		if err != nil {
			return err
		}
		found = describe(text)
	default:
		found = cut(string(s.scalar()))
	}
	return fmt.Errorf("is %s, must be %s", found, what)
}

func twice(key string) error { return fmt.Errorf("%s stands there twice", quote(key)) }

// integers reads a list of at most limit integers, none negative; it is not nil.
func (s *strictJSON) integers(limit int) ([]int64, error) {
	if s.peek() != '[' {
		return nil, s.not("a list")
	}
	s.take(1)
	list := make([]int64, 0, min(limit, 4))
	for s.peek() != ']' {
		if len(list) == limit {
			return nil, fmt.Errorf("has more than %d elements", limit)
		}
		if strings.IndexByte("{[\"", s.peek()) >= 0 {
			return nil, fmt.Errorf("has an element that %w", s.not("an integer"))
		}
		number := string(s.scalar())
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("holds %s, must hold integers in 0..2^63-1", cut(number))
		}
		list = append(list, n)
	}
	s.take(1)
	return list, nil
}

func (s *strictJSON) text() (string, error) {
	if s.peek() != '"' {
		return "", s.not("a string")
	}
	return s.quoted()
}

// value reads any value as nil, bool, string, json.Number, []any or
// map[string]any. It is bounded in depth, and nodes counts down what may be read.
func (s *strictJSON) value(depth int, nodes *int) (any, error) {
	if *nodes--; *nodes < 0 || depth < 0 {
		return nil, errors.New("is nested too deeply or has too many values")
	}
	switch s.peek() {
	case '{':
		return s.tree(depth, nodes)
	case '[':
		s.take(1)
		list := []any{}
		for s.peek() != ']' {
			v, err := s.value(depth-1, nodes)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		s.take(1)
		return list, nil
	case '"':
		return s.quoted()
	}
	switch word := string(s.scalar()); word {
	case "null":
		return nil, nil
	case "true", "false":
		return word == "true", nil
	default:
		return json.Number(word), nil
	}
}

func (s *strictJSON) tree(depth int, nodes *int) (any, error) {
	tree := map[string]any{}
	err := s.object(func(key string) error {
		if _, ok := tree[key]; ok {
			return twice(key)
		}
		v, err := s.value(depth-1, nodes)
		if err != nil {
			return fmt.Errorf("%s: %w", quote(key), err)
		}
		tree[key] = v
		return nil
	})
	return tree, err
}

// describe names a JSON value in an error: a scalar itself, else what it is.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "the string " + quote(v)
	case json.Number:
		return cut(v.String())
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}

const maxQuoted = 160

// quote makes text from a file fit for a one-line message.
func quote(s string) string { return strconv.Quote(cut(s)) }

func cut(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	return s[:maxQuoted] + "..."
}
