package model

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"drover/checkpoint"
	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

// loader reads tensors into packed form and keeps the first error.
type loader struct {
	Options
	ck     *checkpoint.Checkpoint
	prefix string // before every name
	err    error
}

// find returns a tensor of the given shape.
func (l *loader) find(name string, shape ...int) (checkpoint.Tensor, bool) {
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
	return t, true
}

// tensor returns a tensor of the given shape and of a type that can be converted.
func (l *loader) tensor(name string, shape ...int) (checkpoint.Tensor, bool) {
	t, ok := l.find(name, shape...)
	if !ok {
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
	if l.err = t.Float32(v); l.err == nil && !kernel.Finite(v) {
		l.err = fmt.Errorf("%s: tensor %s: holds a value that is not finite (NaN or infinity)",
			t.File(), t.Name)
	}
	return v
}

// linear is a linear layer to be: a shape, and the tensors that its outputs come from.
type linear struct {
	kernel.Shape
	parts []part
}

// part is outputs of a linear layer from first on. Its tensor has an output a row, or,
// with columns, an input a row. One of F8_E4M3 has scales and an output a row.
type part struct {
	t       checkpoint.Tensor
	scales  *scales
	first   int
	columns bool
}

// outputs is the number of outputs of a part.
func (p *part) outputs() int {
	if p.columns {
		return p.t.Shape[1]
	}
	return p.t.Shape[0]
}

// rows asks for a linear layer whose tensors, (outputs, k) each, lie one after the other.
func (l *loader) rows(role kernel.Role, k int, outputs int, names ...string) linear {
	var w linear
	d := tensor.DType(0)
	for i, name := range names {
		p, ok := l.part(name, outputs, k)
		if !ok {
			return linear{}
		}
		if i == 0 || p.t.DType == d {
			d = p.t.DType
		} else {
			d = tensor.F32
		}
		p.first = i * outputs
		w.parts = append(w.parts, p)
	}
	w.Shape = kernel.Shape{N: outputs * len(names), K: k, Format: l.Mode.Weights(role, d)}
	return w
}

// part returns a tensor (outputs, k) with its scales, if it is of F8_E4M3.
func (l *loader) part(name string, outputs, k int) (p part, ok bool) {
	if p.t, ok = l.find(name, outputs, k); ok && p.t.DType == tensor.F8E4M3 {
		p.scales, l.err = l.scales(p.t)
		return p, l.err == nil
	}
	p.t, ok = l.tensor(name, outputs, k)
	return p, ok
}

// columns asks for the linear layer of expert i of a tensor (count, k, n): an input a row.
func (l *loader) columns(name string, i, count, k, n int) linear {
	t, ok := l.tensor(name, count, k, n)
	if !ok {
		return linear{}
	}
	one, err := t.Index(i)
	if err != nil {
		l.err = err
		return linear{}
	}
	f := l.Mode.Weights(kernel.RoleExperts, t.DType)
	return linear{kernel.Shape{N: n, K: k, Format: f}, []part{{t: one, columns: true}}}
}

// piece loads linear layers that belong together: from the store if there is one.
func (l *loader) piece(all ...linear) []*kernel.Matrix {
	if l.err != nil {
		return nil
	}
	key, err := l.key(all)
	if err != nil {
		l.err = err
		return nil
	}
	shapes := make([]kernel.Shape, len(all))
	for i, w := range all {
		shapes[i] = w.Shape
	}
	build := func(m []*kernel.Matrix) error {
		for i, w := range all {
			for _, p := range w.parts {
				if err := l.pack(&p, m[i]); err != nil {
					return err
				}
			}
		}
		// What was packed of a file that changed meanwhile must not be kept as either.
		if after, err := l.key(all); err != nil || after != key {
			return cmp.Or(err, fmt.Errorf("%s: changed while it was read: start again when it is complete",
				all[0].parts[0].t.File()))
		}
		return nil
	}
	var store Store = memory{}
	if l.Store != nil {
		store = l.Store
	}
	m, err := store.Matrices(key, shapes, build)
	if err != nil {
		l.err = err
		return nil
	}
	if l.Packed != nil {
		size := 0
		for _, one := range m {
			size += one.Bytes()
		}
		l.Packed(int64(size))
	}
	return m
}

// key names the bytes that linear layers come from.
func (l *loader) key(all []linear) (string, error) {
	var key strings.Builder
	fmt.Fprintf(&key, "%x", l.ck.Digest())
	for _, w := range all {
		for _, p := range w.parts {
			source, err := p.t.Source()
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&key, "\n%q %v %v %d %t", source, p.t.DType, p.t.Shape, p.first, p.columns)
			if p.scales == nil {
				continue
			}
			if source, err = p.scales.t.Source(); err != nil {
				return "", err
			}
			fmt.Fprintf(&key, " %q %d %d", source, p.scales.outputs, p.scales.inputs)
		}
	}
	return key.String(), nil
}

// memory is the Store that keeps nothing.
type memory struct{}

func (memory) Matrices(_ string, shapes []kernel.Shape, build func([]*kernel.Matrix) error) (
	[]*kernel.Matrix, error) {
	out := make([]*kernel.Matrix, len(shapes))
	for i, s := range shapes {
		var err error
		if out[i], err = kernel.NewMatrix(s.N, s.K, s.Format); err != nil {
			return nil, err
		}
	}
	return out, build(out)
}

// leastShare is how many weights are worth a goroutine of their own.
const leastShare = 1 << 18

// pack packs a part on all processors and gives its pages back to the system.
func (l *loader) pack(p *part, m *kernel.Matrix) error {
	n := p.outputs()
	s := kernel.Source{Type: p.t.DType, OutputStride: m.K, InputStride: 1}
	if p.columns {
		s.OutputStride, s.InputStride = 1, n
	}
	if p.scales != nil {
		var err error
		if s.Scales, err = l.readScales(p.scales); err != nil {
			return err
		}
	}
	// Shares are whole blocks of outputs of m, so that no two write to the same one.
	shares := max(1, min(runtime.GOMAXPROCS(0), n*m.K/leastShare))
	each := (n + shares - 1) / shares
	each = (each + kernel.PartOutputs - 1) / kernel.PartOutputs * kernel.PartOutputs
	if p.first%kernel.PartOutputs != 0 {
		each = n
	}
	shares = (n + each - 1) / each
	use := func(i int, src []byte) error {
		var packer kernel.Packer
		from := i * each
		s := s
		s.First = from
		s.Data = src[from*s.OutputStride*s.Type.Size():]
		return packer.Pack(m, p.first+from, min(each, n-from), s)
	}
	if l.Absent != nil && !p.t.Present() {
		return l.Absent(p.t, func(src []byte) error { return share(shares, src, use) })
	}
	err := p.t.Share(shares, use)
	p.t.Release()
	return err
}

// share calls use for every i below n, each call on a goroutine of its own, and returns the
// error of the lowest i.
func share(n int, src []byte, use func(i int, src []byte) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = use(i, src) })
	}
	all.Wait()
	return cmp.Or(errs...)
}

// matrix loads a linear layer's weights, (n, k): an output a row.
func (l *loader) matrix(role kernel.Role, name string, n, k int) *kernel.Matrix {
	return l.one(l.rows(role, k, n, name))
}

// gate loads the weights of a gate, (n, k), as they are in the checkpoint.
func (l *loader) gate(name string, n, k int) *kernel.Matrix {
	w := l.rows(kernel.RoleExperts, k, n, name)
	if l.err == nil {
		w.Format = kernel.Exact.Weights(kernel.RoleExperts, w.parts[0].t.DType)
	}
	return l.one(w)
}

func (l *loader) one(w linear) *kernel.Matrix {
	m := l.piece(w)
	if l.err != nil {
		return nil
	}
	return m[0]
}

// ffn loads a SwiGLU feed-forward network of three linear layers.
func (l *loader) ffn(name string, hidden, width int) *moe.Expert {
	return l.expert(
		l.rows(kernel.RoleDense, hidden, width, name+".gate_proj.weight", name+".up_proj.weight"),
		l.rows(kernel.RoleDense, width, hidden, name+".down_proj.weight"))
}

// expert loads an expert of its two linear layers.
func (l *loader) expert(gateUp, down linear) *moe.Expert {
	m := l.piece(gateUp, down)
	if l.err != nil {
		return nil
	}
	e, err := moe.NewExpert(l.Device, m[0], m[1])
	l.err = err
	return e
}
