package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"drover/tensor"
)

// trained is a model of one stacked tensor of experts and one plain tensor, of numbers that
// depend on the seed.
func trained(t testing.TB, seed byte) map[string][]byte {
	t.Helper()
	fill := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*7+i>>8) ^ seed
		}
		return b
	}
	return map[string][]byte{
		configName: []byte(`{"model_type":"test"}`),
		singleName: safetensors(t,
			written{"experts", tensor.BF16, []int{8, 64, 128}, fill(8 * 64 * 128 * 2)},
			written{"plain", tensor.F32, []int{64, 256}, fill(64 * 256 * 4)}),
	}
}

func opened(t *testing.T, files map[string][]byte) *Checkpoint {
	t.Helper()
	c, err := Open(writeDir(t, files))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Two trainings of one form have different digests, and so have models of which one expert
// differs; a block that is not sampled may differ unnoticed.
func TestDigestOfWeights(t *testing.T) {
	base := opened(t, trained(t, 1))
	other := opened(t, trained(t, 2))
	if base.Form() != other.Form() {
		t.Error("two trainings have different forms")
	}
	if base.Digest() == other.Digest() {
		t.Error("two trainings have one digest")
	}
	read := map[[2]any]int{} // samples by tensor and slice
	changed := map[bool]int{}
	for _, p := range base.pieces() {
		for begin := p.begin; begin < p.end; begin += sampleBytes {
			files := trained(t, 1)
			files[singleName][begin+sampleBytes/2] ^= 1
			c := opened(t, files)
			differs := c.Digest() != base.Digest()
			changed[differs]++
			if differs {
				read[[2]any{p.name, p.slice}]++
			}
			if c.Form() != base.Form() {
				t.Fatal("a weight changes the form")
			}
		}
	}
	if len(read) != 8+1 {
		t.Errorf("samples of %d pieces, want of all 8 experts and the plain tensor", len(read))
	}
	for p, n := range read {
		if n != maxSamples {
			t.Errorf("%v: %d blocks are sampled, want %d", p, n, maxSamples)
		}
	}
	if changed[false] == 0 {
		t.Error("every block is sampled: that is not what the documentation says")
	}
	if got, want := base.Sampled(), int64(9*maxSamples*sampleBytes); got != want {
		t.Errorf("sampled %d bytes, want %d", got, want)
	}
	if got := base.BytesTouched(); got != 0 {
		t.Errorf("samples count as %d bytes of tensors handed out", got)
	}
}

func TestOpenHeaders(t *testing.T) {
	base := opened(t, trained(t, 1))
	files := trained(t, 1)
	header := 8 + binary.LittleEndian.Uint64(files[singleName])
	clear(files[singleName][header:])
	hollow := opened(t, files)
	if !hollow.Hollow() || base.Hollow() {
		t.Errorf("hollow: %v without weights and %v with", hollow.Hollow(), base.Hollow())
	}
	dir := writeDir(t, files)
	c, err := OpenHeaders(dir, func(form [32]byte) ([32]byte, error) {
		if form != base.Form() {
			t.Errorf("the form without weights is %x, want %x", form, base.Form())
		}
		return base.Digest(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Digest() != base.Digest() || c.Sampled() != 0 {
		t.Errorf("digest %x after reading %d bytes, want %x", c.Digest(), c.Sampled(), base.Digest())
	}
	if _, err := OpenHeaders(dir, func([32]byte) (d [32]byte, err error) {
		return d, os.ErrDeadlineExceeded
	}); err != os.ErrDeadlineExceeded {
		t.Errorf("error = %v, want identify's", err)
	}
}

// However a header divides a model, what is read stays bounded.
func TestSamplesAreBounded(t *testing.T) {
	c := &Checkpoint{tensors: map[string]*File{}}
	f := &File{entries: map[string]entry{}}
	const stacks = 3 * maxPieces / maxStack
	for i := range stacks {
		name := fmt.Sprint("stack", i)
		f.entries[name] = entry{shape: []int{maxStack, 64, 64}, end: maxStack * 64 * 64}
		c.tensors[name] = f
	}
	if got := len(c.pieces()); got != maxPieces {
		t.Errorf("%d pieces, want %d", got, maxPieces)
	}
	for _, shape := range [][]int{{}, {7}, {4096, 4096}, {0, 4, 4}, {maxStack + 1, 64, 64}, {1408, 3, 14, 14}} {
		size := 2
		for _, n := range shape {
			size *= n
		}
		if got := (entry{shape: shape, end: int64(size)}).slices(); got != 1 {
			t.Errorf("a tensor of shape %v counts as %d pieces, want 1", shape, got)
		}
	}
}

// BenchmarkOpenDemo opens the demo model.
func BenchmarkOpenDemo(b *testing.B) {
	benchmarkOpen(b, maverick)
}

// BenchmarkOpenMaverick opens a model of the size of Llama 4 Maverick, with holes for weights:
// what it costs beside the disk.
func BenchmarkOpenMaverick(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, configName), []byte(`{"model_type":"test"}`), 0o600); err != nil {
		b.Fatal(err)
	}
	index := map[string]string{}
	for layer := range 24 {
		shapes := map[string][]int{}
		name := fmt.Sprintf("layers.%d.experts.", 2*layer+1)
		shapes[name+"gate_up_proj"], shapes[name+"down_proj"] = []int{128, 5120, 16384}, []int{128, 8192, 5120}
		for _, l := range []int{2 * layer, 2*layer + 1} {
			for i := range 11 { // attention, norms, the shared expert or a dense layer
				shapes[fmt.Sprintf("layers.%d.other.%d", l, i)] = []int{5120, 5120}
			}
		}
		shard := fmt.Sprintf("model-%05d.safetensors", layer)
		sparse(b, filepath.Join(dir, shard), shapes)
		for name := range shapes {
			index[name] = shard
		}
	}
	text, err := json.Marshal(map[string]any{"weight_map": index})
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, indexName), text, 0o600); err != nil {
		b.Fatal(err)
	}
	benchmarkOpen(b, dir)
}

// sparse writes a file of bf16 tensors that are holes.
func sparse(b *testing.B, path string, shapes map[string][]int) {
	header, at := map[string]any{}, int64(0)
	for name, shape := range shapes {
		size := int64(2)
		for _, n := range shape {
			size *= int64(n)
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int64{at, at + size}}
		at += size
	}
	text, err := json.Marshal(header)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, rawFile(string(text), nil), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(path, int64(prefixBytes+len(text))+at); err != nil {
		b.Skipf("this file system has no file of %d bytes: %v", at, err)
	}
}

func benchmarkOpen(b *testing.B, dir string) {
	var sampled int64
	for b.Loop() {
		c, err := Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		sampled = c.Sampled()
		c.Close()
	}
	b.ReportMetric(float64(sampled), "sampled-B/op")
}
