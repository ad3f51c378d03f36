package coordinator

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drover/model"
	"drover/scheduler"
)

func TestCacheBlocks(t *testing.T) {
	full := model.KVGroup{RowBytes: 100}
	window := model.KVGroup{RowBytes: 300, Chunk: 64}
	o := scheduler.Options{BlockTokens: 16, MaxSequences: 4, MaxPrefillTokens: 32}
	for name, tc := range map[string]struct {
		groups []model.KVGroup
		tokens int
		bytes  int64
		want   []int // nil: an error
	}{
		"all that can be used": {[]model.KVGroup{full}, 160, 1 << 40, []int{40}},
		"bounded":              {[]model.KVGroup{full}, 1 << 20, 16 * 100 * 9, []int{9}},
		"window only": {[]model.KVGroup{full, window}, 1 << 20,
			16 * (100*1000 + 300*28), []int{1000, 28}},
		"less than windows": {[]model.KVGroup{full, window}, 1 << 20, 16*400*5 + 1, []int{5, 5}},
		"not one block":     {[]model.KVGroup{full}, 160, 1599, nil},
		"no groups":         {nil, 160, 1 << 20, nil},
		"bad rows":          {[]model.KVGroup{{}}, 160, 1 << 20, nil},
		"no context":        {[]model.KVGroup{full}, 0, 1 << 20, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cacheBlocks(model.Spec{KV: tc.groups, MaxTokens: tc.tokens}, o, tc.bytes)
			if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) {
				t.Errorf("got %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

// TestDefaultsAreNoPipe gives a pipe that nobody writes to, which is not waited for.
func TestDefaultsAreNoPipe(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "generation_config.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := ReadDefaults(dir)
		read <- err
	}()
	select {
	case err := <-read:
		if err == nil || !strings.Contains(err.Error(), "generation_config.json: not a regular file") {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it is waited for")
	}
}

func TestReadDefaults(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want Defaults
		ok   bool
	}{
		"greedy": {`{"do_sample": false, "temperature": 0.6}`, Defaults{TopP: 1}, true},
		"sampled": {`{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 40}`,
			Defaults{Temperature: 0.6, TopP: 0.9, TopK: 40}, true},
		"bare":       {`{"do_sample": true}`, Defaults{Temperature: 1, TopP: 1}, true},
		"bad range":  {`{"do_sample": true, "top_p": 7}`, Defaults{}, false},
		"bad type":   {`{"do_sample": true, "top_k": "x"}`, Defaults{}, false},
		"not object": {`[]`, Defaults{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "generation_config.json"), []byte(tc.text))
			got, err := ReadDefaults(dir)
			if got != tc.want && err == nil || (err == nil) != tc.ok {
				t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
	if got, err := ReadDefaults(t.TempDir()); got != (Defaults{}) || err != nil {
		t.Errorf("without a file: %+v, %v", got, err)
	}
	if got, err := ReadDefaults("../models/tiny-maverick"); got.Temperature != 0 || err != nil {
		t.Errorf("demo model: %+v, %v", got, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no name":           {},
		"negative cache":    {Name: "x", KVBytes: -1},
		"tiny cache":        {Name: "x", KVBytes: 1},
		"negative queue":    {Name: "x", MaxWaiting: -1},
		"negative prefill":  {Name: "x", MaxPrefillTokens: -1},
		"batch too small":   {Name: "x", MaxSequences: 8, MaxBatchTokens: 4},
		"unread too large":  {Name: "x", MaxUnreadTokens: 1 << 20},
		"bad default top-p": {Name: "x", Defaults: Defaults{TopP: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(newFake(32), nil, o)
			if err == nil {
				c.Close()
				t.Error("accepted")
			}
		})
	}
}

// TestSmallCacheShortensTheContext checks that the context told is the one that fits.
func TestSmallCacheShortensTheContext(t *testing.T) {
	o := small
	o.KVBytes = 12 * blockTokens * 3 // three blocks in each group
	c := start(t, newFake(32), nil, o)
	a := generate(t.Context(), c, tokensRequest([]int32{3}, 0))
	if c.context != 48 || a.err != nil || len(a.ids) > 47 {
		t.Errorf("context %d, %v", c.context, a)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, b)
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
