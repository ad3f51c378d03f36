package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	maxConfigBytes = 4 << 20
	maxConfigNodes = 1 << 18 // values in a configuration, so that its tree stays small
	maxConfigDepth = 32
)

// Config is a JSON object with settings, such as config.json or an object inside
// it. No value is trusted: a Reader checks each against what its caller can bear.
// A key that is null counts as absent. A nil Config has no keys.
type Config struct {
	name   string // the file's name
	path   string // of the keys, "" or ending in a dot
	fields map[string]any
	err    error // why this is no object; every Reader starts with it
}

func parseConfig(name string, text []byte) (*Config, error) {
	js, err := newStrictJSON(text)
	if err != nil {
		return nil, err
	}
	nodes := maxConfigNodes
	v, err := js.value(maxConfigDepth, &nodes)
	if err != nil {
		return nil, err
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("is %s, must be an object", describe(v))
	}
	return &Config{name: name, fields: fields}, nil
}

// ModelType returns the key model_type, "" if it is absent or no string.
func (c *Config) ModelType() string {
	s, _ := c.value("model_type").(string)
	return s
}

// Has reports whether the key is there and not null.
func (c *Config) Has(key string) bool { return c.value(key) != nil }

// Sub returns the object at key, and whether the key is there. If it holds
// something else, every Reader of the returned Config reports that.
func (c *Config) Sub(key string) (*Config, bool) {
	v := c.value(key)
	if v == nil {
		return nil, false
	}
	sub := &Config{name: c.name, path: c.path + key + "."}
	var ok bool
	if sub.fields, ok = v.(map[string]any); !ok {
		sub.err = c.problem(key, fmt.Sprintf("is %s, must be an object", describe(v)))
	}
	return sub, true
}

// Reader returns a Reader of the object's keys.
func (c *Config) Reader() *Reader {
	if c == nil {
		return &Reader{c: &Config{name: "configuration"}}
	}
	return &Reader{c: c, err: c.err}
}

func (c *Config) value(key string) any {
	if c == nil {
		return nil
	}
	return c.fields[key]
}

func (c *Config) problem(key, what string) error {
	path := strings.Trim(quote(c.path+key), `"`) // a key may hold anything, a message one line
	return fmt.Errorf("%s: %s %s", c.name, path, what)
}

// Reader reads the keys of one Config and remembers the first that is wrong, so
// that its caller reads them all and asks Err once:
//
//	r := config.Reader()
//	hidden := r.Int("hidden_size", 1, 1<<20)
//	eps := r.FloatOr("rms_norm_eps", 1e-5, 0, 1)
//	if err := r.Err(); err != nil {
//		return err
//	}
//
// What a method returns for a wrong or missing value is in range, so nothing
// goes wrong before Err is asked. A Reader is for one goroutine.
type Reader struct {
	c   *Config
	err error
}

// Err returns the first error, nil if all was well.
func (r *Reader) Err() error { return r.err }

// Fail records that the key's value is wrong in a way that the other methods
// cannot see, unless there was an error before; what goes after the key.
func (r *Reader) Fail(key, what string) {
	if r.err == nil {
		r.err = r.c.problem(key, what)
	}
}

// Has reports whether the key is there and not null.
func (r *Reader) Has(key string) bool { return r.c.Has(key) }

// Int returns an integer that must be there, in lo..hi. After an error it is lo.
func (r *Reader) Int(key string, lo, hi int) int {
	v := r.c.value(key)
	if v == nil {
		r.Fail(key, fmt.Sprintf("is missing, must be an integer in %d..%d", lo, hi))
		return lo
	}
	n, err := integer(v, lo, hi)
	if err != nil {
		r.Fail(key, err.Error())
		return lo
	}
	return n
}

// IntOr is like Int, but a key that is absent gives def, whatever the bounds.
func (r *Reader) IntOr(key string, def, lo, hi int) int {
	if !r.Has(key) {
		return def
	}
	return r.Int(key, lo, hi)
}

// Float returns a number that must be there, in lo..hi. After an error it is lo.
func (r *Reader) Float(key string, lo, hi float64) float64 {
	v := r.c.value(key)
	if v == nil {
		r.Fail(key, fmt.Sprintf("is missing, must be a number in %g..%g", lo, hi))
		return lo
	}
	number, ok := v.(json.Number)
	f, err := strconv.ParseFloat(string(number), 64)
	if !ok || err != nil || math.IsInf(f, 0) || f < lo || f > hi {
		r.Fail(key, fmt.Sprintf("is %s, must be a number in %g..%g", describe(v), lo, hi))
		return lo
	}
	return f
}

// FloatOr is like Float, but a key that is absent gives def, whatever the bounds.
func (r *Reader) FloatOr(key string, def, lo, hi float64) float64 {
	if !r.Has(key) {
		return def
	}
	return r.Float(key, lo, hi)
}

// Bool returns a truth value, def if the key is absent.
func (r *Reader) Bool(key string, def bool) bool { return scalar(r, key, def, "true or false") }

// String returns a string, def if the key is absent.
func (r *Reader) String(key, def string) string { return scalar(r, key, def, "a string") }

func scalar[T any](r *Reader, key string, def T, kind string) T {
	v := r.c.value(key)
	if v == nil {
		return def
	}
	t, ok := v.(T)
	if !ok {
		r.Fail(key, fmt.Sprintf("is %s, must be %s", describe(v), kind))
		return def
	}
	return t
}

// Ints returns a list of at most maxLen integers, each in lo..hi, and whether the
// key is there. A single integer is a list of one. After an error it is empty.
func (r *Reader) Ints(key string, maxLen, lo, hi int) ([]int, bool) {
	return list(r, key, maxLen, func(v any) (int, error) { return integer(v, lo, hi) })
}

// Strings returns a list of at most maxLen strings, and whether the key is there.
// A single string is a list of one. After an error it is empty.
func (r *Reader) Strings(key string, maxLen int) ([]string, bool) {
	return list(r, key, maxLen, func(v any) (string, error) {
		s, ok := v.(string)
		if !ok {
			return "", fmt.Errorf("is %s, must be a string", describe(v))
		}
		return s, nil
	})
}

func list[T any](r *Reader, key string, maxLen int, element func(v any) (T, error)) ([]T, bool) {
	v := r.c.value(key)
	if v == nil {
		return nil, false
	}
	values, ok := v.([]any)
	if !ok {
		values = []any{v}
	}
	if len(values) > maxLen {
		r.Fail(key, fmt.Sprintf("has %d elements, must have at most %d", len(values), maxLen))
		return nil, true
	}
	out := make([]T, len(values))
	for i, v := range values {
		var err error
		if out[i], err = element(v); err != nil {
			r.Fail(fmt.Sprintf("%s[%d]", key, i), err.Error())
			return nil, true
		}
	}
	return out, true
}

func integer(v any, lo, hi int) (int, error) {
	number, ok := v.(json.Number)
	n, err := strconv.Atoi(string(number))
	if !ok || err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("is %s, must be %d..%d", describe(v), lo, hi)
	}
	return n, nil
}
