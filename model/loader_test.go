package model_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
	"drover/moe"
)

// kept is a Store in memory.
type kept struct {
	pieces map[string][]*kernel.Matrix
	last   []*kernel.Matrix
	built  int
	before func() // called before each piece is built
}

func (s *kept) Matrices(key string, shapes []kernel.Shape,
	build func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	s.last = s.pieces[key]
	if s.last != nil {
		return s.last, nil
	}
	for _, shape := range shapes {
		m, err := kernel.NewMatrix(shape.N, shape.K, shape.Format)
		if err != nil {
			return nil, err
		}
		s.last = append(s.last, m)
	}
	if s.before != nil {
		s.before()
	}
	if err := build(s.last); err != nil {
		return nil, err
	}
	s.built++
	if s.pieces == nil {
		s.pieces = map[string][]*kernel.Matrix{}
	}
	s.pieces[key] = s.last
	return s.last, nil
}

// copyDemo copies the demo model to a folder of the test.
func copyDemo(t *testing.T) string {
	t.Helper()
	return copyModel(t, "../models/tiny-maverick")
}

func copyModel(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// negate replaces the weights in dir by their negatives: new files of the same names,
// sizes and times.
func negate(t *testing.T, dir string) {
	t.Helper()
	for _, path := range shards(t, dir) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 8 + int(binary.LittleEndian.Uint64(b)); i+1 < len(b); i += 2 {
			b[i+1] ^= 0x80
		}
		if err := os.WriteFile(path+".new", b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path+".new", st.ModTime(), st.ModTime()); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}

func shards(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "model-*.safetensors"))
	if err != nil || len(all) == 0 {
		t.Fatalf("shards %q: %v", all, err)
	}
	return all
}

// openSource opens the experts of the model in dir with a store.
func openSource(t *testing.T, dir string, s model.Store) moe.Source {
	t.Helper()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	src, err := model.OpenExperts(ck, model.Options{Mode: kernel.Int8, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// load loads the first expert and returns its packed gate_up.
func load(t *testing.T, src moe.Source, s *kept) []byte {
	t.Helper()
	if _, err := src.Load(src.Spec().Layers[0], 0); err != nil {
		t.Fatal(err)
	}
	return s.last[0].Packed()
}

// TestReplacedWeights replaces files by others of the same sizes and times. What was
// packed of the first must not be found for the others, even if it was packed after.
func TestReplacedWeights(t *testing.T) {
	dir, s := copyDemo(t), &kept{}
	src := openSource(t, dir, s)
	negate(t, dir)
	first := load(t, src, s)
	if load(t, src, s); s.built != 1 {
		t.Error("the same files are packed twice")
	}
	second := load(t, openSource(t, dir, s), s)
	if bytes.Equal(first, second) || s.built != 2 {
		t.Errorf("after the replacement: same weights %t, %d pieces built, want 2",
			bytes.Equal(first, second), s.built)
	}
}

// TestChangedWhilePacked changes a file's time while its weights are packed: they are
// not kept.
func TestChangedWhilePacked(t *testing.T) {
	dir := copyDemo(t)
	s := &kept{before: func() {
		for _, path := range shards(t, dir) {
			if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}}
	src := openSource(t, dir, s)
	_, err := src.Load(src.Spec().Layers[0], 0)
	if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("error %v, must say that the file was changed", err)
	}
	if s.built != 0 {
		t.Error("weights of a file that was changed meanwhile are kept")
	}
	load(t, src, s)
}

// noExperts is never asked.
type noExperts struct{ moe.Experts }

func (noExperts) Forward(context.Context, *moe.Batch, func()) error { return nil }

// TestBadWeightNamesOutput puts a NaN into output 3 of the second of two tensors that
// are packed as one layer.
func TestBadWeightNamesOutput(t *testing.T) {
	dir := copyDemo(t)
	name := spoil(t, dir, "shared_expert.up_proj.weight", 3)
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	_, err = model.Open(ck, model.Options{Mode: kernel.Int8}, noExperts{})
	if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "output 3:") {
		t.Errorf("error %v, must name %s and output 3", err, name)
	}
}

// spoil puts a NaN into an output of the first tensor whose name ends so, and returns
// its name.
func spoil(t *testing.T, dir, suffix string, output int) string {
	t.Helper()
	for _, path := range shards(t, dir) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data := 8 + int(binary.LittleEndian.Uint64(b))
		var header map[string]struct {
			Shape   []int
			Offsets []int `json:"data_offsets"`
		}
		if err := json.Unmarshal(b[8:data], &header); err != nil {
			t.Fatal(err)
		}
		for name, e := range header {
			if strings.HasSuffix(name, suffix) {
				at := data + e.Offsets[0] + output*e.Shape[1]*2
				b[at], b[at+1] = 0xc0, 0x7f
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
				return name
			}
		}
	}
	t.Fatalf("no tensor's name ends in %s", suffix)
	return ""
}
