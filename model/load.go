package model

import (
	"errors"
	"fmt"
	"slices"

	"drover/checkpoint"
	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

// ErrUnsupported is wrapped by errors about checkpoints that are sound but of an
// architecture or a format that this build does not run.
var ErrUnsupported = errors.New("not supported")

// Options says how a checkpoint's weights are kept and where they are computed with.
type Options struct {
	// Mode is the numeric mode. It is required.
	Mode kernel.Mode
	// Device holds the weights and computes. Nil means the CPU, on the caller's
	// thread alone.
	Device kernel.Device
}

func (o *Options) setDefaults() {
	if o.Device == nil {
		o.Device = kernel.NewCPU(nil)
	}
}

// architecture is what Open knows about a model_type.
type architecture struct {
	spec    func(*checkpoint.Checkpoint, kernel.Mode) (Spec, error)
	open    func(*checkpoint.Checkpoint, Options, moe.Experts) (Model, error)
	experts func(*checkpoint.Checkpoint, Options) (moe.Source, error) // nil: dense
}

func find(ck *checkpoint.Checkpoint) (architecture, error) {
	kind := ck.Config().ModelType()
	if ck.Config().Has("quantization_config") {
		return architecture{}, fmt.Errorf("%s: config.json: quantised weights (quantization_config): %w",
			ck.Dir(), ErrUnsupported)
	}
	switch kind {
	case "llama4", "llama4_text":
		return architecture{llama4Spec, openLlama4, openLlama4Experts}, nil
	case "llama":
		return architecture{llamaSpec, openLlama, nil}, nil
	}
	return architecture{}, fmt.Errorf(
		"%s: config.json: model_type %q: %w; supported are llama4, llama4_text, llama",
		ck.Dir(), kind, ErrUnsupported)
}

// Describe reads a checkpoint's specification from its config.json and its tensors'
// headers, without reading weights.
func Describe(ck *checkpoint.Checkpoint, mode kernel.Mode) (Spec, error) {
	a, err := find(ck)
	if err != nil {
		return Spec{}, err
	}
	return a.spec(ck, mode)
}

// Open loads everything of a checkpoint but its routed experts, which are reached
// through experts; it may be nil for a dense model. Errors name the file and the
// field or tensor.
func Open(ck *checkpoint.Checkpoint, opts Options, experts moe.Experts) (Model, error) {
	opts.setDefaults()
	a, err := find(ck)
	if err != nil {
		return nil, err
	}
	return a.open(ck, opts, experts)
}

// OpenExperts gives access to a checkpoint's routed experts, one at a time. A dense
// model has a Source whose Spec lists no layers.
func OpenExperts(ck *checkpoint.Checkpoint, opts Options) (moe.Source, error) {
	opts.setDefaults()
	a, err := find(ck)
	if err != nil {
		return nil, err
	}
	if a.experts == nil {
		return noExperts{}, nil
	}
	return a.experts(ck, opts)
}

// noExperts is the Source of dense models.
type noExperts struct{}

func (noExperts) Spec() moe.Spec { return moe.Spec{} }

func (noExperts) Load(layer, expert int) (*moe.Expert, error) {
	return nil, fmt.Errorf("load expert %d.%d: the model has no routed experts", layer, expert)
}

// loader reads tensors into packed form and keeps the first error.
type loader struct {
	ck     *checkpoint.Checkpoint
	mode   kernel.Mode
	device kernel.Device
	prefix string // before every name
	row    []float32
	err    error
}

// tensor returns a tensor of the given shape and of a type that can be converted.
func (l *loader) tensor(name string, shape ...int) (checkpoint.Tensor, bool) {
	if l.err != nil {
		return checkpoint.Tensor{}, false
	}
	t, err := l.ck.Tensor(l.prefix + name)
	if err != nil {
		l.err = err
		return t, false
	}
	if !slices.Equal(t.Shape, shape) {
		l.err = fmt.Errorf("%s: tensor %s: shape is %v, config.json asks for %v",
			t.File(), t.Name, t.Shape, shape)
		return t, false
	}
	switch t.DType {
	case tensor.BF16, tensor.F16, tensor.F32:
		return t, true
	}
	l.err = fmt.Errorf("%s: tensor %s: type is %s, weights must be BF16, F16 or F32",
		t.File(), t.Name, t.DType)
	return t, false
}

// vector reads a one-dimensional tensor.
func (l *loader) vector(name string, n int) []float32 {
	t, ok := l.tensor(name, n)
	if !ok {
		return nil
	}
	v := make([]float32, n)
	l.read(t, v)
	return v
}

// read converts t into dst and refuses values that are not finite.
func (l *loader) read(t checkpoint.Tensor, dst []float32) bool {
	if err := t.Float32(dst); err != nil {
		l.err = err
		return false
	}
	if !kernel.Finite(dst) {
		l.err = fmt.Errorf("%s: tensor %s: holds a value that is not finite (NaN or infinity)",
			t.File(), t.Name)
		return false
	}
	return true
}

// matrix reads a linear layer's weights, (n, k): an output a row.
func (l *loader) matrix(role kernel.Role, name string, n, k int) *kernel.Matrix {
	t, ok := l.tensor(name, n, k)
	if !ok {
		return nil
	}
	return l.pack(t, n, k, l.mode.Weights(role, t.DType))
}

// gate reads the weights of a gate, (n, k), as they are in the checkpoint.
func (l *loader) gate(name string, n, k int) *kernel.Matrix {
	t, ok := l.tensor(name, n, k)
	if !ok {
		return nil
	}
	return l.pack(t, n, k, kernel.Exact.Weights(kernel.RoleExperts, t.DType))
}

// transposed reads the weights of expert i of a tensor (count, k, n): an input a row.
func (l *loader) transposed(name string, i, count, k, n int) *kernel.Matrix {
	t, ok := l.tensor(name, count, k, n)
	if !ok {
		return nil
	}
	one, err := t.Index(i)
	if err != nil {
		l.err = err
		return nil
	}
	m := l.make(t, n, k, l.mode.Weights(kernel.RoleExperts, t.DType))
	all := make([]float32, n*k)
	if m == nil || !l.read(one, all) {
		return nil
	}
	row := make([]float32, k)
	for j := range n {
		for c := range row {
			row[c] = all[c*n+j]
		}
		if err := m.SetRow(j, row); err != nil {
			l.err = fmt.Errorf("%s: tensor %s: output %d: %w", t.File(), one.Name, j, err)
			return nil
		}
	}
	one.Release()
	return m
}

// make makes a matrix for the weights of t.
func (l *loader) make(t checkpoint.Tensor, n, k int, f kernel.Format) *kernel.Matrix {
	m, err := kernel.NewMatrix(n, k, f)
	if err != nil {
		l.err = fmt.Errorf("%s: tensor %s: %w", t.File(), t.Name, err)
	}
	return m
}

// pack reads the rows of t into a new n × k matrix and gives the pages of t back to
// the system.
func (l *loader) pack(t checkpoint.Tensor, n, k int, f kernel.Format) *kernel.Matrix {
	m := l.make(t, n, k, f)
	if m != nil {
		l.stack(m, t, 0)
	}
	if l.err != nil {
		return nil
	}
	return m
}

// ffn reads a SwiGLU feed-forward network of three linear layers.
func (l *loader) ffn(name string, hidden, width int) *moe.Expert {
	gate, up := name+".gate_proj.weight", name+".up_proj.weight"
	gt, ok := l.tensor(gate, width, hidden)
	if !ok {
		return nil
	}
	ut, ok := l.tensor(up, width, hidden)
	if !ok {
		return nil
	}
	d := tensor.F32
	if gt.DType == ut.DType {
		d = gt.DType
	}
	gateUp := l.make(gt, 2*width, hidden, l.mode.Weights(kernel.RoleDense, d))
	if gateUp == nil {
		return nil
	}
	l.stack(gateUp, gt, 0)
	l.stack(gateUp, ut, width)
	down := l.matrix(kernel.RoleDense, name+".down_proj.weight", hidden, width)
	if l.err != nil {
		return nil
	}
	e, err := moe.NewExpert(l.device, gateUp, down)
	l.err = err
	return e
}

// stack reads the rows of t into the rows of m from first on.
func (l *loader) stack(m *kernel.Matrix, t checkpoint.Tensor, first int) {
	l.row = slices.Grow(l.row[:0], m.K)[:m.K]
	for i := 0; i < t.Shape[0] && l.err == nil; i++ {
		r, err := t.Index(i)
		if err != nil {
			l.err = err
			return
		}
		if !l.read(r, l.row) {
			return
		}
		if err := m.SetRow(first+i, l.row); err != nil {
			l.err = fmt.Errorf("%s: tensor %s: %w", t.File(), r.Name, err)
		}
	}
	t.Release()
}
