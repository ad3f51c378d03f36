package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// strictJSON walks one JSON document that is known to be well-formed. It refuses
// what encoding/json lets pass: a key that stands twice in an object, and text
// that is not UTF-8. It keeps nothing, so memory is what its caller keeps.
type strictJSON struct {
	dec *json.Decoder
}

func newStrictJSON(b []byte) (strictJSON, error) {
	if len(b) == 0 {
		return strictJSON{}, errors.New("is empty")
	}
	if !utf8.Valid(b) {
		return strictJSON{}, errors.New("not valid JSON: the text is not UTF-8")
	}
	if !json.Valid(b) {
		return strictJSON{}, fmt.Errorf("not valid JSON: %w", syntaxError(b))
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return strictJSON{dec}, nil
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

// token returns the next token; the document never ends while one is expected.
func (s strictJSON) token() (json.Token, error) {
	t, err := s.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// object reads an object and calls member for each key; member reads the value.
func (s strictJSON) object(member func(key string) error) error {
	t, err := s.token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return fmt.Errorf("is %s, must be an object", describe(t))
	}
	return s.members(member)
}

// members reads the rest of an object whose brace has been read.
func (s strictJSON) members(member func(key string) error) error {
	seen := map[string]struct{}{}
	for s.dec.More() {
		t, err := s.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return fmt.Errorf("key is %s, must be a string", describe(t))
		}
		if _, ok := seen[key]; ok {
			return fmt.Errorf("%s stands there twice", quote(key))
		}
		seen[key] = struct{}{}
		if err := member(key); err != nil {
			return err
		}
	}
	_, err := s.token()
	return err
}

// integers reads an array of at most limit integers, none negative.
func (s strictJSON) integers(limit int) ([]int64, error) {
	t, err := s.token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('[') {
		return nil, fmt.Errorf("is %s, must be a list", describe(t))
	}
	var list []int64
	for s.dec.More() {
		if len(list) == limit {
			return nil, fmt.Errorf("has more than %d elements", limit)
		}
		t, err := s.token()
		if err != nil {
			return nil, err
		}
		number, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("holds %s, must hold integers", describe(t))
		}
		n, err := strconv.ParseInt(number.String(), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("holds %s, must be an integer in 0..2^63-1", describe(t))
		}
		list = append(list, n)
	}
	_, err = s.token()
	return list, err
}

func (s strictJSON) text() (string, error) {
	t, err := s.token()
	if err != nil {
		return "", err
	}
	text, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("is %s, must be a string", describe(t))
	}
	return text, nil
}

// value reads any value as nil, bool, string, json.Number, []any or
// map[string]any. It is bounded in depth, and nodes counts down what may be read.
func (s strictJSON) value(depth int, nodes *int) (any, error) {
	t, err := s.token()
	if err != nil {
		return nil, err
	}
	if *nodes--; *nodes < 0 || depth < 0 {
		return nil, errors.New("is nested too deeply or has too many values")
	}
	switch t {
	case json.Delim('{'):
		object := map[string]any{}
		err := s.members(func(key string) error {
			v, err := s.value(depth-1, nodes)
			if err != nil {
				return fmt.Errorf("%s: %w", quote(key), err)
			}
			object[key] = v
			return nil
		})
		return object, err
	case json.Delim('['):
		list := []any{}
		for s.dec.More() {
			v, err := s.value(depth-1, nodes)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := s.token()
		return list, err
	}
	return t, nil
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
	case json.Delim:
		if v == '{' || v == '}' {
			return "an object"
		}
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
