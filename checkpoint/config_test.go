package checkpoint

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const sample = `{
	"model_type": "llama4", "hidden_size": 16, "eps": 1e-5, "whole": 8, "tied": true, "act": "silu",
	"layers": [0, 2], "eos": 7, "kinds": ["full", "sliding"], "nothing": null, "big": 1e999,
	"huge": 99999999999999999999, "fraction": 16.0,
	"text_config": {"num_hidden_layers": 2147483648, "rope_scaling": {"factor": "8"}}
}`

func parseSample(t testing.TB, text string) *Config {
	t.Helper()
	c, err := parseConfig("config.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReader(t *testing.T) {
	c := parseSample(t, sample)
	r := c.Reader()
	layers, hasLayers := r.Ints("layers", 2, 0, 2)
	eos, hasEOS := r.Ints("eos", 4, 0, 9)
	none, hasNone := r.Ints("nothing", 4, 0, 9)
	kinds, hasKinds := r.Strings("kinds", 2)
	for name, ok := range map[string]bool{
		"model type":     c.ModelType() == "llama4",
		"Int":            r.Int("hidden_size", 16, 16) == 16,
		"IntOr there":    r.IntOr("hidden_size", 3, 1, 99) == 16,
		"IntOr absent":   r.IntOr("absent", -1, 1, 99) == -1,
		"IntOr null":     r.IntOr("nothing", 5, 1, 99) == 5,
		"Float":          r.Float("eps", 0, 1) == 1e-5,
		"Float whole":    r.Float("whole", 0, 10) == 8,
		"FloatOr":        r.FloatOr("absent", 0.5, 0, 1) == 0.5,
		"Bool":           r.Bool("tied", false) && r.Bool("absent", true),
		"String":         r.String("act", "") == "silu" && r.String("absent", "gelu") == "gelu",
		"Ints":           hasLayers && slices.Equal(layers, []int{0, 2}),
		"Ints of one":    hasEOS && slices.Equal(eos, []int{7}),
		"Ints of null":   !hasNone && none == nil,
		"Strings":        hasKinds && slices.Equal(kinds, []string{"full", "sliding"}),
		"Has":            r.Has("act") && !r.Has("nothing") && !r.Has("absent"),
		"no sub":         !has(c.Sub("absent")) && !has(c.Sub("nothing")),
		"sub":            has(c.Sub("text_config")),
		"nil has no key": !(*Config)(nil).Has("a") && (*Config)(nil).ModelType() == "",
		"nil Reader":     (*Config)(nil).Reader().IntOr("a", 4, 0, 9) == 4,
	} {
		if !ok {
			t.Errorf("%s: wrong", name)
		}
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

func has(_ *Config, ok bool) bool { return ok }

func TestReaderErrors(t *testing.T) {
	c := parseSample(t, sample)
	text, _ := c.Sub("text_config")
	rope, _ := text.Sub("rope_scaling")
	wrong, _ := c.Sub("act")
	for _, tc := range []struct {
		c    *Config
		read func(r *Reader)
		want string // without the file's name
	}{
		{text, func(r *Reader) { r.Int("num_hidden_layers", 1, 4096) },
			"text_config.num_hidden_layers is 2147483648, must be 1..4096"},
		{rope, func(r *Reader) { r.FloatOr("factor", 1, 1, 100) },
			`text_config.rope_scaling.factor is the string "8", must be a number in 1..100`},
		{c, func(r *Reader) { r.Int("absent", 1, 9); r.Int("hidden_size", 1, 2) },
			"absent is missing, must be an integer in 1..9"},
		{c, func(r *Reader) { r.Float("nothing", 0, 1) },
			"nothing is missing, must be a number in 0..1"},
		{c, func(r *Reader) { r.Float("big", 0, math.Inf(1)) },
			"big is 1e999, must be a number in 0..+Inf"},
		{c, func(r *Reader) { r.Int("huge", 0, math.MaxInt) },
			"huge is 99999999999999999999, must be 0..9223372036854775807"},
		{c, func(r *Reader) { r.Int("fraction", 1, 99) },
			"fraction is 16.0, must be 1..99"},
		{c, func(r *Reader) { r.Bool("hidden_size", true) },
			"hidden_size is 16, must be true or false"},
		{c, func(r *Reader) { r.String("layers", "") },
			"layers is a list, must be a string"},
		{c, func(r *Reader) { r.Fail("hidden_size", "is a number") },
			"hidden_size is a number"},
		{c, func(r *Reader) { r.Ints("layers", 9, 0, 1) },
			"layers[1] is 2, must be 0..1"},
		{c, func(r *Reader) { r.Ints("layers", 1, 0, 9) },
			"layers has 2 elements, must have at most 1"},
		{c, func(r *Reader) { r.Strings("layers", 9) },
			"layers[0] is 0, must be a string"},
		{wrong, func(r *Reader) { r.IntOr("a", 1, 1, 1) },
			`act is the string "silu", must be an object`},
		{c, func(r *Reader) { r.Int("text_config", 0, 9) },
			"text_config is an object, must be 0..9"},
	} {
		r := tc.c.Reader()
		tc.read(r)
		if err, want := r.Err(), "config.json: "+tc.want; err == nil || err.Error() != want {
			t.Errorf("error = %v\nwant    %s", err, want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:                      "is empty",
		`[]`:                    "must be an object",
		`null`:                  "must be an object",
		`{"a": NaN}`:            "not valid JSON",
		`{"a": Infinity}`:       "not valid JSON",
		`{"a": 1,}`:             "not valid JSON",
		`{"a": 1} x`:            "not valid JSON",
		`{"a": 01}`:             "not valid JSON",
		"{\"a\": \"\xff\"}":     "not UTF-8",
		`{"a": 1, "\u0061": 2}`: `"a" stands there twice`,
		strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40):       "nested too deeply",
		`{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000): "not valid JSON",
		`{"a":[` + strings.Repeat("0,", maxConfigNodes) + "0]}":           "too many values",
	} {
		_, err := parseConfig("config.json", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: error = %v, want %q", text, err, want)
			continue
		}
		checkOneLine(t, err)
	}
}

// The largest configuration that is read costs a bounded amount of memory.
func TestConfigAllocation(t *testing.T) {
	keys := make([]string, maxConfigNodes-1)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"%x":0`, i)
	}
	text := []byte("{" + strings.Join(keys, ",") + "}")
	got := allocated(func() {
		if _, err := parseConfig("config.json", text); err != nil {
			t.Error(err)
		}
	})
	if limit := uint64(len(text) + 64<<20); got > limit {
		t.Errorf("%d bytes allocated for %d, want at most %d", got, len(text), limit)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(sample))
	paths, err := filepath.Glob(malformed + "/config_*/config.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig("config.json", b)
		if err != nil {
			checkOneLine(t, err)
			return
		}
		for key := range c.fields {
			readEvery(t, c, key)
			if sub, ok := c.Sub(key); ok {
				for key := range sub.fields {
					readEvery(t, sub, key)
				}
			}
		}
	})
}

// readEvery reads the key as everything: what comes back is in range, always.
func readEvery(t *testing.T, c *Config, key string) {
	t.Helper()
	for _, read := range []func(r *Reader) bool{
		func(r *Reader) bool { n := r.Int(key, 1, 9); return n >= 1 && n <= 9 },
		func(r *Reader) bool { x := r.Float(key, 1, 9); return x >= 1 && x <= 9 },
		func(r *Reader) bool { s, _ := r.Strings(key, 2); return len(s) <= 2 },
		func(r *Reader) bool {
			list, _ := r.Ints(key, 3, 1, 9)
			bad := slices.ContainsFunc(list, func(n int) bool { return n < 1 || n > 9 })
			return len(list) <= 3 && !bad
		},
		func(r *Reader) bool { return !r.Bool(key, false) || c.fields[key] == true },
		func(r *Reader) bool { return r.String(key, "d") == "d" || c.fields[key] != nil },
	} {
		r := c.Reader()
		if !read(r) {
			t.Fatalf("key %q: out of range", key)
		}
		if err := r.Err(); err != nil {
			checkOneLine(t, err)
		}
	}
}
