package model_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
	"drover/tensor"
)

// stored is a tensor of a model that a test writes.
type stored struct {
	dtype tensor.DType
	shape []int
	data  []byte
}

func float32s(shape []int, values []float32) stored {
	s := stored{dtype: tensor.F32, shape: shape}
	for _, v := range values {
		s.data = binary.LittleEndian.AppendUint32(s.data, math.Float32bits(v))
	}
	return s
}

// writeModel writes a model directory with the configuration of another, changed.
func writeModel(t *testing.T, from string, change map[string]any, tensors map[string]stored) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	for key, v := range change {
		config[key] = v
	}
	header, data := map[string]any{}, []byte(nil)
	for name, s := range tensors {
		header[name] = map[string]any{"dtype": s.dtype.String(), "shape": s.shape,
			"data_offsets": []int{len(data), len(data) + len(s.data)}}
		data = append(data, s.data...)
	}
	dir := t.TempDir()
	write := func(name string, v any, behind []byte) {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if behind != nil {
			text = append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), append(text, behind...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", config, nil)
	write("model.safetensors", header, data)
	return dir
}

const llama3 = "../testdata/fixtures/models/llama3"

// inFP8 returns the weights of a dense model in e4m3 with random scales for each block, and
// the same weights in float32.
func inFP8(t *testing.T, block [2]int) (codes, floats map[string]stored) {
	t.Helper()
	ck, err := checkpoint.Open(llama3)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	r := rand.New(rand.NewPCG(81, 82))
	codes, floats = map[string]stored{}, map[string]stored{}
	for _, name := range ck.Names() {
		x, err := ck.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		v := make([]float32, x.Elements())
		if err := x.Float32(v); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "_proj.weight") {
			codes[name], floats[name] = float32s(x.Shape, v), float32s(x.Shape, v)
			continue
		}
		k := x.Shape[1]
		rows, columns := (x.Shape[0]-1)/block[0]+1, (k-1)/block[1]+1
		scales := make([]float32, rows*columns)
		for i := range scales {
			scales[i] = (1 + r.Float32()) / 1000
		}
		c := make([]byte, len(v))
		for i := range v {
			scale := scales[i/k/block[0]*columns+i%k/block[1]]
			c[i] = tensor.Float32ToE4M3(v[i] / scale)
			v[i] = tensor.E4M3ToFloat32(c[i]) * scale
		}
		codes[name] = stored{tensor.F8E4M3, x.Shape, c}
		codes[name+"_scale_inv"] = float32s([]int{rows, columns}, scales)
		floats[name] = float32s(x.Shape, v)
	}
	return codes, floats
}

// logitsOf are the logits of a prompt.
func logitsOf(t *testing.T, dir, mode string) [][]float32 {
	t.Helper()
	m, err := kernel.ParseMode(mode)
	if err != nil {
		t.Fatal(err)
	}
	return newSession(t, open(t, dir, m), 32).run(t, []int32{1, 5, 9, 44, 7, 3, 3, 120})
}

// TestFP8Checkpoint runs a model in e4m3 with scales for blocks: it gives the bytes of the
// same weights in float32, kept as they are stored or not.
func TestFP8Checkpoint(t *testing.T) {
	for _, block := range [][2]int{{128, 128}, {32, 64}} {
		codes, floats := inFP8(t, block)
		coded := writeModel(t, llama3, map[string]any{"quantization_config": map[string]any{
			"quant_method": "fp8", "weight_block_size": block}}, codes)
		widened := writeModel(t, llama3, nil, floats)
		for _, mode := range []string{"exact", "bf16", "int8"} {
			got, want := logitsOf(t, coded, mode), logitsOf(t, widened, mode)
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					t.Errorf("blocks %v, %s: position %d differs", block, mode, i)
				}
			}
		}
	}
}

// TestFP8Refuses opens models in e4m3 with something wrong.
func TestFP8Refuses(t *testing.T) {
	const q = "model.layers.1.self_attn.q_proj.weight"
	for name, tc := range map[string]struct {
		change func(map[string]stored)
		says   string
	}{
		"no scales": {func(m map[string]stored) { delete(m, q+"_scale_inv") },
			q + ": type is F8_E4M3, and there is neither"},
		"few scales": {func(m map[string]stored) {
			m[q+"_scale_inv"] = float32s([]int{1, 2}, []float32{1, 1})
		}, "_scale_inv: shape is [1 2], must be"},
		"scales of integers": {func(m map[string]stored) {
			s := m[q+"_scale_inv"]
			s.dtype = tensor.I32
			m[q+"_scale_inv"] = s
		}, "type is I32, scales must be"},
		"a NaN": {func(m map[string]stored) { m[q].data[3] = 0x7f }, "q_proj.weight\": output 0: input 3 is not finite"},
		"scale not finite": {func(m map[string]stored) {
			copy(m[q+"_scale_inv"].data, []byte{0, 0, 0xc0, 0x7f})
		}, "_scale_inv: scale 0 is NaN"},
		"a norm": {func(m map[string]stored) {
			s := m["model.norm.weight"]
			m["model.norm.weight"] = stored{tensor.F8E4M3, s.shape, s.data[:len(s.data)/4]}
		}, "model.norm.weight: type is F8_E4M3, weights must be"},
	} {
		codes, _ := inFP8(t, [2]int{128, 128})
		tc.change(codes)
		err := openDense(writeModel(t, llama3, nil, codes))
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: error %v, must say %q", name, err, tc.says)
		}
	}
	codes, _ := inFP8(t, [2]int{128, 128})
	for name, config := range map[string]map[string]any{
		"three sizes": {"quant_method": "fp8", "weight_block_size": []int{1, 2, 3}},
		"odd blocks":  {"quant_method": "fp8", "weight_block_size": []int{48, 48}},
		"no method":   {"weight_block_size": []int{128, 128}},
		"a list":      {"quant_method": []string{"fp8"}},
	} {
		err := openDense(writeModel(t, llama3, map[string]any{"quantization_config": config}, codes))
		if err == nil || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestFP8Experts opens published Llama 4's layout, in which layers differ: sizes are those of
// the largest expert, and every layer's experts load.
func TestFP8Experts(t *testing.T) {
	ck, err := checkpoint.Open("../testdata/fixtures/quant/q_llama4_maverick_fp8")
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	for mode, want := range map[kernel.Mode][2]kernel.Format{
		kernel.Exact: {kernel.WeightsFP8, kernel.WeightsBF16},
		kernel.FP8:   {kernel.WeightsFP8, kernel.WeightsFP8},
		kernel.Int4:  {kernel.WeightsInt4, kernel.WeightsInt4},
	} {
		var s kept
		src, err := model.OpenExperts(ck, model.Options{Mode: mode, Store: &s})
		if err != nil {
			t.Fatal(err)
		}
		spec, largest := src.Spec(), int64(0)
		for i, f := range want {
			largest = max(largest, int64(kernel.MatrixBytes(2*spec.Width, spec.Hidden, f)+
				kernel.MatrixBytes(spec.Hidden, spec.Width, f)))
			if _, err := src.Load(spec.Layers[i], 7); err != nil {
				t.Fatal(err)
			}
			for _, m := range s.last {
				if m.Format() != f {
					t.Errorf("%v, layer %d: format %v, want %v", mode, spec.Layers[i], m.Format(), f)
				}
			}
		}
		if spec.ReplicaBytes != largest {
			t.Errorf("%v: an expert of %d bytes, want %d", mode, spec.ReplicaBytes, largest)
		}
	}
}
