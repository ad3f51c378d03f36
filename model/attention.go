package model

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"drover/checkpoint"
	"drover/kernel"
	"drover/tensor"
)

// attention is one layer's attention weights.
type attention struct {
	q, k, v, o kernel.Weights
}

func (l *loader) attention(name string, hidden, heads, kvHeads, headDim int) attention {
	load := func(part string, n, k int) kernel.Weights {
		return l.upload(l.matrix(kernel.RoleAttention, name+part, n, k))
	}
	return attention{
		q: load(".q_proj.weight", heads*headDim, hidden),
		k: load(".k_proj.weight", kvHeads*headDim, hidden),
		v: load(".v_proj.weight", kvHeads*headDim, hidden),
		o: load(".o_proj.weight", hidden, heads*headDim),
	}
}

// rope holds the inverse frequencies of rotary embedding and, for the tokens of the
// current step, the cosines and sines of their angles.
type rope struct {
	inverse          []float32   // (headDim/2)
	cos, sin         kernel.Rows // (tokens, headDim/2)
	hostCos, hostSin []float32
}

// ropeScaling is Llama 3's scaling of rotary frequencies.
type ropeScaling struct {
	factor, low, high float64
	original          float64 // positions before scaling
}

// newRope makes the frequencies theta^(-2i/headDim), in float32 as the reference
// does, scaled as Llama 3 does where s is not nil: long wavelengths are stretched
// by the factor, short ones are kept, those between are interpolated.
func newRope(headDim int, theta float64, s *ropeScaling) rope {
	r := rope{inverse: make([]float32, headDim/2)}
	for i := range r.inverse {
		f := 1 / float64(float32(math.Pow(theta, float64(float32(2*i)/float32(headDim)))))
		f = float64(float32(f))
		if s != nil {
			f = s.apply(f)
		}
		r.inverse[i] = float32(f)
	}
	return r
}

func (s *ropeScaling) apply(f float64) float64 {
	wavelen := 2 * math.Pi / f
	switch {
	case wavelen > s.original/s.low:
		return f / s.factor
	case wavelen < s.original/s.high:
		return f
	case s.low == s.high:
		return f
	}
	smooth := (s.original/wavelen - s.low) / (s.high - s.low)
	return (1-smooth)*f/s.factor + smooth*f
}

// prepare computes the angles of the batch's tokens.
func (r *rope) prepare(d kernel.Device, b *Batch) error {
	half := len(r.inverse)
	r.hostCos = resize(r.hostCos, len(b.Tokens)*half)
	r.hostSin = resize(r.hostSin, len(b.Tokens)*half)
	at := 0
	for i := range b.Sequences {
		for j := range b.Sequences[i].Count {
			pos := float32(b.Sequences[i].Start + j)
			for _, f := range r.inverse {
				sin, cos := math.Sincos(float64(pos * f))
				r.hostCos[at], r.hostSin[at] = float32(cos), float32(sin)
				at++
			}
		}
	}
	if err := write(d, &r.cos, r.hostCos, half); err != nil {
		return err
	}
	return write(d, &r.sin, r.hostSin, half)
}

// write makes r the rows of dim that values has.
func write(d kernel.Device, r *kernel.Rows, values []float32, dim int) error {
	src := tensor.Rows{Data: values, N: len(values) / dim, Dim: dim}
	if err := kernel.Resize(d, r, src.N, dim); err != nil {
		return err
	}
	d.Write(*r, src)
	return nil
}

// embedding gives the device the embedding tensor where it lies in the checkpoint.
func (l *loader) embedding(name string, vocabulary, hidden int) kernel.Table {
	t, ok := l.tensor(name, vocabulary, hidden)
	if !ok {
		return nil
	}
	shares := min(runtime.GOMAXPROCS(0), vocabulary)
	l.err = t.Share(shares, func(i int, src []byte) error {
		row := len(src) / vocabulary
		part := src[i*vocabulary/shares*row : (i+1)*vocabulary/shares*row]
		if !kernel.FiniteBytes(part, t.DType) {
			return errors.New("holds a value that is not finite (NaN or infinity)")
		}
		return nil
	})
	if l.err != nil {
		return nil
	}
	table, err := l.Device.UploadTable(kernel.TableBytes{
		Data: t.Raw(), DType: t.DType, Rows: vocabulary, Dim: hidden})
	if err != nil {
		l.err = fmt.Errorf("%s: tensor %s: %w", t.File(), t.Name, err)
	}
	return table
}

// upload gives weights to the device.
func (l *loader) upload(m *kernel.Matrix) kernel.Weights {
	if l.err != nil {
		return nil
	}
	w, err := l.Device.Upload(m)
	l.err = err
	return w
}

// norm reads the weight of a norm.
func (l *loader) norm(name string, n int) kernel.Rows {
	v := l.vector(name, n)
	if l.err != nil {
		return kernel.Rows{}
	}
	var r kernel.Rows
	l.err = write(l.Device, &r, v, n)
	return r
}

// ropeReader reads rope_theta and rope_scaling in the hub's older and newer form
// (rope_parameters with rope_theta inside).
func ropeReader(cfg *checkpoint.Config, headDim int) (rope, error) {
	r := cfg.Reader()
	theta := r.FloatOr("rope_theta", 10000, 1, 1e12)
	scaling, ok := cfg.Sub("rope_parameters")
	if ok {
		pr := scaling.Reader()
		theta = pr.FloatOr("rope_theta", theta, 1, 1e12)
		if err := pr.Err(); err != nil {
			return rope{}, err
		}
	} else {
		scaling, ok = cfg.Sub("rope_scaling")
	}
	if err := r.Err(); err != nil || !ok {
		return newRope(headDim, theta, nil), err
	}
	return scaledRope(scaling, headDim, theta)
}

// scaledRope reads the kind of scaling and its numbers.
func scaledRope(cfg *checkpoint.Config, headDim int, theta float64) (rope, error) {
	r := cfg.Reader()
	kind := r.String("rope_type", r.String("type", "default"))
	s := &ropeScaling{}
	switch kind {
	case "default":
		return newRope(headDim, theta, nil), r.Err()
	case "llama3":
		s.factor = r.Float("factor", 1e-6, 1e6)
		s.low = r.Float("low_freq_factor", 1e-6, 1e6)
		s.high = r.Float("high_freq_factor", 1e-6, 1e6)
		s.original = r.Float("original_max_position_embeddings", 1, maxContext)
	default:
		return rope{}, fmt.Errorf("config.json: rope scaling of type %q: %w", kind, ErrUnsupported)
	}
	if err := r.Err(); err != nil {
		return rope{}, err
	}
	return newRope(headDim, theta, s), nil
}
