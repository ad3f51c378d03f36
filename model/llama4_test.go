package model_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
	"drover/moe"
)

// local computes experts in process, straight from the source.
type local struct {
	mode    kernel.Mode
	runner  *moe.Runner
	experts map[[2]int]*moe.Expert
	batch   []*moe.Expert
}

func newLocal(mode kernel.Mode, d kernel.Device) *local {
	return &local{mode: mode, runner: moe.NewRunner(d), experts: map[[2]int]*moe.Expert{}}
}

func loadAll(t *testing.T, src moe.Source, mode kernel.Mode, d kernel.Device) *local {
	t.Helper()
	l := newLocal(mode, d)
	for _, layer := range src.Spec().Layers {
		for e := range src.Spec().Experts {
			x, err := src.Load(layer, e)
			if err != nil {
				t.Fatal(err)
			}
			if x.Bytes() != src.Spec().ReplicaBytes {
				t.Fatalf("expert %d.%d has %d bytes, the spec says %d", layer, e, x.Bytes(),
					src.Spec().ReplicaBytes)
			}
			l.experts[[2]int{layer, e}] = x
		}
	}
	return l
}

func (l *local) Forward(_ context.Context, b *moe.Batch, meanwhile func()) error {
	if meanwhile != nil {
		meanwhile()
	}
	l.batch = l.batch[:0]
	for _, e := range b.Experts {
		l.batch = append(l.batch, l.experts[[2]int{b.Layer, int(e)}])
	}
	if err := l.runner.Forward(b.Y, b.X, l.batch, b.Counts); err != nil {
		return err
	}
	moe.RoundRows(l.mode, b.Y)
	return nil
}

func open(t *testing.T, dir string, mode kernel.Mode) model.Model {
	t.Helper()
	return openOn(t, dir, mode, kernel.NewCPU(nil))
}

// session runs one sequence through a model, in steps of the caller's choosing.
type session struct {
	m     model.Model
	cache *model.Cache
	seq   model.Sequence
	pos   int
}

func newSession(t *testing.T, m model.Model, tokens int) *session {
	t.Helper()
	const blockTokens = 16
	s := &session{m: m}
	n := (tokens + blockTokens - 1) / blockTokens
	var blocks []int
	for range m.Spec().KV {
		blocks = append(blocks, n)
		table := make([]int32, n)
		for i := range table {
			table[i] = int32(n - 1 - i) // any order will do
		}
		s.seq.Tables = append(s.seq.Tables, table)
	}
	c, err := m.NewCache(blocks, blockTokens)
	if err != nil {
		t.Fatal(err)
	}
	s.cache = c
	return s
}

// run feeds tokens and returns the logits of every position.
func (s *session) run(t *testing.T, tokens []int32) [][]float32 {
	t.Helper()
	s.seq.Start, s.seq.Count, s.seq.Logits = s.pos, len(tokens), len(tokens)
	b := model.Batch{Tokens: tokens, Sequences: []model.Sequence{s.seq}}
	if err := s.m.Forward(t.Context(), s.cache, &b); err != nil {
		t.Fatal(err)
	}
	s.pos += len(tokens)
	var out [][]float32
	for i := range b.Logits.N {
		out = append(out, slices.Clone(b.Logits.Row(i)))
	}
	return out
}

func ints(t *testing.T, f *checkpoint.File, name string) []int32 {
	t.Helper()
	x, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	raw := x.Raw()
	out := make([]int32, len(raw)/4)
	for i := range out {
		out[i] = int32(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 |
			uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
	}
	return out
}

func floats(t *testing.T, f *checkpoint.File, name string) []float32 {
	t.Helper()
	x, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, x.Elements())
	if err := x.Float32(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReference compares logits at every position with the reference's, with the
// prompt in one piece and in pieces of 5 tokens, which must be the same bytes.
func TestReference(t *testing.T) {
	for _, name := range []string{"llama4_scout_causal", "llama4_scout_cond",
		"llama4_guard_dense", "llama4_maverick_vision", "llama3"} {
		for mode, tolerance := range map[kernel.Mode]float64{kernel.Exact: 2e-4, kernel.BF16: 0.5} {
			t.Run(fmt.Sprintf("%s/%s", name, mode), func(t *testing.T) {
				testReference(t, name, mode, tolerance)
			})
		}
	}
}

func testReference(t *testing.T, name string, mode kernel.Mode, tolerance float64) {
	dir := filepath.Join("../testdata/fixtures/models", name)
	m := open(t, dir, mode)
	f, err := checkpoint.OpenFile(filepath.Join(dir, "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	prompts := []string{"p1", "p2", "p7", "long", "b0", "b1", "b2"}
	if name == "llama4_maverick_vision" {
		prompts = []string{"text"}
	}
	worst := 0.0
	for _, p := range prompts {
		ids, want := ints(t, f, "ids."+p), floats(t, f, "logits."+p)
		got := newSession(t, m, len(ids)).run(t, ids)
		for i, row := range got {
			for j, v := range row {
				worst = max(worst, math.Abs(float64(v-want[i*len(row)+j])))
			}
		}
		pieces := newSession(t, m, len(ids))
		var again [][]float32
		for part := range slices.Chunk(ids, 5) {
			again = append(again, pieces.run(t, part)...)
		}
		for i := range got {
			if !slices.Equal(got[i], again[i]) {
				t.Fatalf("%s: position %d differs in pieces of 5 tokens", p, i)
			}
		}
	}
	t.Logf("largest error of a logit: %.2g", worst)
	if worst > tolerance {
		t.Errorf("largest error of a logit is %g, want at most %g", worst, tolerance)
	}
}
