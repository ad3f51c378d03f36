package model_test

import (
	"fmt"
	"slices"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
	"drover/moe"
)

// modes are all precisions, alone and mixed.
var modes = []string{"exact", "bf16", "int8", "int4", "fp8", "int4,head=bf16,kv=int8",
	"bf16,experts=int4,dense=int8,kv=exact", "exact,attention=int8,rows=bf16"}

// TestSameBytes runs three sequences through a model with several numbers of threads:
// each alone, all in one batch, and in pieces. All logits must be the same bytes.
func TestSameBytes(t *testing.T) {
	for _, dir := range []string{"../models/tiny-maverick", "../testdata/fixtures/models/llama3"} {
		for _, text := range modes {
			t.Run(fmt.Sprintf("%s/%s", dir, text), func(t *testing.T) {
				mode, err := kernel.ParseMode(text)
				if err != nil {
					t.Fatal(err)
				}
				testSameBytes(t, dir, mode)
			})
		}
	}
}

func testSameBytes(t *testing.T, dir string, mode kernel.Mode) {
	var want [][][]float32
	for _, threads := range []int{1, 2, 3, 5} {
		pool := kernel.NewPool(threads)
		m := openOn(t, dir, mode, kernel.NewCPU(pool))
		prompts := promptsFor(m)
		for name, run := range map[string]func(*testing.T, model.Model, [][]int32) [][][]float32{
			"alone": alone, "in a batch": together, "in pieces": pieces,
		} {
			got := run(t, m, prompts)
			if want == nil {
				want = got
			}
			for i := range want {
				for pos := range want[i] {
					if !slices.Equal(got[i][pos], want[i][pos]) {
						t.Errorf("%d threads, %s: sequence %d, position %d differs", threads, name, i, pos)
						break
					}
				}
			}
		}
		pool.Close()
	}
}

// openOn opens a model with its experts on a device.
func openOn(t *testing.T, dir string, mode kernel.Mode, d kernel.Device) model.Model {
	t.Helper()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	opts := model.Options{Mode: mode, Device: d}
	src, err := model.OpenExperts(ck, opts)
	if err != nil {
		t.Fatal(err)
	}
	var experts moe.Experts
	if len(src.Spec().Layers) > 0 {
		experts = loadAll(t, src, mode, d)
	}
	m, err := model.Open(ck, opts, experts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// promptsFor returns prompts of lengths that have no common divisor with any block.
func promptsFor(m model.Model) [][]int32 {
	var out [][]int32
	for i, n := range []int{37, 1, 61} {
		prompt := make([]int32, n)
		for j := range prompt {
			prompt[j] = int32((i*1009 + j*j*31 + j*7) % m.Spec().Vocabulary)
		}
		out = append(out, prompt)
	}
	return out
}

func alone(t *testing.T, m model.Model, prompts [][]int32) (out [][][]float32) {
	for _, p := range prompts {
		out = append(out, newSession(t, m, len(p)).run(t, p))
	}
	return out
}

func pieces(t *testing.T, m model.Model, prompts [][]int32) (out [][][]float32) {
	for _, p := range prompts {
		s := newSession(t, m, len(p))
		var logits [][]float32
		for part := range slices.Chunk(p, 7) {
			logits = append(logits, s.run(t, part)...)
		}
		out = append(out, logits)
	}
	return out
}

// together runs all prompts in one step.
func together(t *testing.T, m model.Model, prompts [][]int32) [][][]float32 {
	t.Helper()
	out, err := inParts(t, m, prompts, 1)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inParts runs all prompts in one step of so many micro-batches.
func inParts(t *testing.T, m model.Model, prompts [][]int32, parts int) (
	out [][][]float32, err error) {
	t.Helper()
	const blockTokens = 16
	b := model.Batch{MicroBatches: parts}
	var blocks int
	for _, p := range prompts {
		seq := model.Sequence{Count: len(p), Logits: len(p)}
		table := make([]int32, (len(p)+blockTokens-1)/blockTokens)
		for i := range table {
			table[i] = int32(blocks + i)
		}
		blocks += len(table)
		for range m.Spec().KV {
			seq.Tables = append(seq.Tables, table)
		}
		b.Tokens, b.Sequences = append(b.Tokens, p...), append(b.Sequences, seq)
	}
	c, err := m.NewCache(slices.Repeat([]int{blocks}, len(m.Spec().KV)), blockTokens)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Forward(t.Context(), c, &b); err != nil {
		return nil, err
	}
	row := 0
	for _, p := range prompts {
		var logits [][]float32
		for range p {
			logits = append(logits, slices.Clone(b.Logits.Row(row)))
			row++
		}
		out = append(out, logits)
	}
	return out, nil
}
