package checkpoint

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/tensor"
)

const (
	fixtures  = "../testdata/fixtures"
	malformed = fixtures + "/malformed"
	maverick  = "../models/tiny-maverick"
)

// refused holds the malformed models that are wrong as files, with a part of the
// error that must name the place. The others are wrong as models: opening them
// must work, or at least end in an error.
var refused = map[string]string{
	"truncated_data":       "model.safetensors: ",
	"truncated_header":     "model.safetensors: header length",
	"empty_file":           "model.safetensors: file is 0 bytes",
	"seven_bytes":          "model.safetensors: file is 7 bytes",
	"header_len_huge":      "header length is 9223372036854775808",
	"header_len_past_eof":  "bytes follow",
	"header_len_short":     "header: not valid JSON",
	"header_not_json":      "header: not valid JSON",
	"header_list":          "must be an object",
	"offset_past_end":      "it is cut off",
	"offset_reversed":      "after their end",
	"offset_negative":      "holds -1024",
	"offset_overlap":       "overlaps tensor",
	"shape_data_mismatch":  "data_offsets span",
	"shape_overflow":       "overflows",
	"shape_negative":       "holds -",
	"dtype_unknown":        `dtype "F99"`,
	"shard_missing":        "model-00002-of-00002.safetensors",
	"shard_path_traversal": "not a plain file name",
	"config_missing":       "config.json",
	"config_invalid_json":  "config.json: not valid JSON",
	"config_nan_eps":       "config.json: not valid JSON",
}

func TestMalformed(t *testing.T) {
	b, err := os.ReadFile(malformed + "/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Cases []struct{ Dir string } }
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, tc := range list.Cases {
		want, bad := refused[tc.Dir]
		if bad {
			seen++
		}
		t.Run(tc.Dir, func(t *testing.T) {
			dir := filepath.Join(malformed, tc.Dir)
			begin := time.Now()
			var c *Checkpoint
			var err error
			bytes := allocated(func() { c, err = Open(dir) })
			if took := time.Since(begin); took > 10*time.Second || bytes > 1<<20 {
				t.Errorf("Open took %v and %d bytes", took, bytes)
			}
			if !bad {
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				readAll(t, c)
				return
			}
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			checkOneLine(t, err)
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), want) {
				t.Errorf("error = %v, want the directory and %q", err, want)
			}
		})
	}
	if seen != len(refused) {
		t.Errorf("%d of %d refused cases are in cases.json", seen, len(refused))
	}
}

// readAll reads every tensor, and checks that every byte was counted.
func readAll(t *testing.T, c *Checkpoint) {
	t.Helper()
	var total int64
	for _, name := range c.Names() {
		v, err := c.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, v.Elements()*v.DType.Size())
		if err := v.Read(b); err != nil {
			t.Fatal(err)
		}
		total += int64(len(b))
	}
	if total != c.Bytes() || c.BytesTouched() != total {
		t.Errorf("read %d bytes, touched %d, of %d", total, c.BytesTouched(), c.Bytes())
	}
}

func TestOpenFixtures(t *testing.T) {
	dirs, err := filepath.Glob(fixtures + "/models/*")
	if err != nil {
		t.Fatal(err)
	}
	quant, err := filepath.Glob(fixtures + "/quant/q_*")
	if err != nil {
		t.Fatal(err)
	}
	dirs = append(append(dirs, quant...), maverick)
	if len(dirs) < 10 {
		t.Fatalf("found only %q", dirs)
	}
	digests := map[[32]byte]string{}
	for _, dir := range dirs {
		c, err := Open(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		readAll(t, c)
		if other, ok := digests[c.Digest()]; ok {
			t.Errorf("%s and %s have one digest", dir, other)
		}
		digests[c.Digest()] = dir
		if c.Config().ModelType() == "" {
			t.Errorf("%s has no model_type", dir)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	c, err := Open(maverick)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Dir() != maverick || c.Bytes() != 29643264 || len(c.Names()) != 129 {
		t.Errorf("%s has %d bytes in %d tensors", c.Dir(), c.Bytes(), len(c.Names()))
	}
	if c.BytesTouched() != 0 {
		t.Errorf("Open touched %d bytes of weights", c.BytesTouched())
	}
	if eos, ok := readInts(c.Generation(), "eos_token_id"); !ok || len(eos) != 3 {
		t.Errorf("eos_token_id = %v", eos)
	}
	_, err = c.Tensor("nothing")
	if !errors.Is(err, ErrNoTensor) || c.Has("nothing") || !strings.Contains(err.Error(), maverick) {
		t.Errorf("Tensor(nothing) = %v", err)
	}
}

func readInts(c *Config, key string) ([]int, bool) {
	r := c.Reader()
	list, ok := r.Ints(key, 16, 0, 1<<30)
	return list, ok && r.Err() == nil
}

// model returns the files of a model of two shards.
func model(t *testing.T) map[string][]byte {
	return map[string][]byte{
		"config.json": []byte(`{"model_type":"test"}`),
		"model.safetensors.index.json": []byte(`{"metadata":{"total_size":12},` +
			`"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}`),
		"x.safetensors": safetensors(t, written{"a", tensor.F32, []int{2}, floats(1, 2)}),
		"y.safetensors": safetensors(t, written{"b", tensor.F32, []int{1}, floats(3)},
			written{"unlisted", tensor.U8, []int{1}, []byte{7}}),
	}
}

func TestShards(t *testing.T) {
	c, err := Open(writeDir(t, model(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := strings.Join(c.Names(), " "); got != "a b" || c.Bytes() != 12 {
		t.Errorf("tensors are %s, %d bytes", got, c.Bytes())
	}
	if c.Has("unlisted") {
		t.Error("a tensor that the index leaves out exists")
	}
	if c.Generation().Has("eos_token_id") {
		t.Error("a generation_config.json that is not there has a key")
	}
}

func TestOpenRefuses(t *testing.T) {
	index := func(shard string) []byte {
		return []byte(`{"weight_map":{"a":` + shard + `}}`)
	}
	const name = "model.safetensors.index.json"
	for title, tc := range map[string]struct {
		file    string
		content []byte // nil removes the file
		want    string
	}{
		"no weights":        {name, nil, "neither model.safetensors nor"},
		"index empty":       {name, []byte{}, "is empty"},
		"index list":        {name, []byte(`[]`), "must be an object"},
		"no weight_map":     {name, []byte(`{}`), "no weight_map"},
		"empty weight_map":  {name, []byte(`{"weight_map":{}}`), "no tensors"},
		"two weight_maps":   {name, []byte(`{"weight_map":{},"weight_map":{}}`), "twice"},
		"tensor twice":      {name, index(`"x.safetensors","a":"y.safetensors"`), "twice"},
		"shard number":      {name, index(`1`), "must be a string"},
		"shard absolute":    {name, index(`"/etc/x.safetensors"`), "plain file name"},
		"shard parent":      {name, index(`"../x.safetensors"`), "plain file name"},
		"shard below":       {name, index(`"s/x.safetensors"`), "plain file name"},
		"shard backslash":   {name, index(`"s\\x.safetensors"`), "plain file name"},
		"shard zero byte":   {name, index(`"x\u0000.safetensors"`), "plain file name"},
		"shard other file":  {name, index(`"config.json"`), "plain file name"},
		"shard empty":       {name, index(`""`), "plain file name"},
		"shard not there":   {name, index(`"z.safetensors"`), "the index names this shard"},
		"tensor elsewhere":  {name, index(`"y.safetensors"`), "download them again"},
		"shard damaged":     {"y.safetensors", []byte("x"), "y.safetensors: file is 1 bytes"},
		"single damaged":    {"model.safetensors", []byte("x"), "model.safetensors: file is 1 bytes"},
		"config missing":    {"config.json", nil, "needs a config.json"},
		"config twice":      {"config.json", []byte(`{"b":{"c":1,"c":2}}`), `"b": "c" stands`},
		"config large":      {"config.json", make([]byte, maxConfigBytes+1), "must be at most"},
		"generation broken": {"generation_config.json", []byte(`{`), "config.json: not valid"},
	} {
		t.Run(title, func(t *testing.T) {
			files := model(t)
			if files[tc.file] = tc.content; tc.content == nil {
				delete(files, tc.file)
			}
			dir := writeDir(t, files)
			c, err := Open(dir)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			checkOneLine(t, err)
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestOpenRefusesDirectoryAsFile(t *testing.T) {
	files := model(t)
	delete(files, "config.json")
	dir := writeDir(t, files)
	if err := os.Mkdir(filepath.Join(dir, "config.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("error = %v", err)
	}
}

// The digest depends on what the files hold, not on where or when they are.
func TestDigest(t *testing.T) {
	digest := func(files map[string][]byte) [32]byte {
		t.Helper()
		c, err := Open(writeDir(t, files))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.Digest()
	}
	base := digest(model(t))
	if digest(model(t)) != base {
		t.Error("a copy of a model has another digest")
	}
	seen := map[[32]byte]string{base: "the model itself"}
	for name, b := range map[string][]byte{
		"config.json":                  []byte(`{"model_type":"test" }`),
		"model.safetensors.index.json": append(model(t)["model.safetensors.index.json"], ' '),
		"x.safetensors":                safetensors(t, written{"a", tensor.I32, []int{2}, floats(1, 2)}),
		"y.safetensors": safetensors(t, written{"b", tensor.F32, []int{1}, floats(3)},
			written{"unlisted", tensor.U8, []int{2}, []byte{7, 8}}),
	} {
		files := model(t)
		files[name] = b
		d := digest(files)
		if other, ok := seen[d]; ok {
			t.Errorf("the digest with another %s is that of %s", name, other)
		}
		seen[d] = "the model with another " + name
	}
}

func FuzzIndex(f *testing.F) {
	for _, s := range []string{
		`{"metadata":{"total_size":1},"weight_map":{"a":"x.safetensors"}}`,
		`{"weight_map":{"a":"../x.safetensors"}}`, `{"weight_map":{}}`, `[]`, `{"weight_map":[[[[`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		weightMap, err := parseIndex(b)
		if err != nil {
			checkOneLine(t, err)
			return
		}
		const dir = "/models/one"
		for name, shard := range weightMap {
			if filepath.Dir(filepath.Join(dir, shard)) != dir {
				t.Fatalf("tensor %q is in %q", name, shard)
			}
		}
	})
}
