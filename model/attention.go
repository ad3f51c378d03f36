package model

import (
	"fmt"
	"math"

	"drover/checkpoint"
	"drover/kernel"
	"drover/tensor"
)

// attention is one layer's attention weights.
type attention struct {
	q, k, v, o *kernel.Matrix
}

func (l *loader) attention(name string, hidden, heads, kvHeads, headDim int) attention {
	return attention{
		q: l.matrix(kernel.RoleAttention, name+".q_proj.weight", heads*headDim, hidden),
		k: l.matrix(kernel.RoleAttention, name+".k_proj.weight", kvHeads*headDim, hidden),
		v: l.matrix(kernel.RoleAttention, name+".v_proj.weight", kvHeads*headDim, hidden),
		o: l.matrix(kernel.RoleAttention, name+".o_proj.weight", hidden, heads*headDim),
	}
}

// rope holds the inverse frequencies of rotary embedding and, for the tokens of the
// current step, the cosines and sines of their angles.
type rope struct {
	inverse  []float32 // (headDim/2)
	cos, sin []float32 // (tokens, headDim/2)
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
func (r *rope) prepare(b *Batch) {
	half := len(r.inverse)
	r.cos, r.sin = resize(r.cos, len(b.Tokens)*half), resize(r.sin, len(b.Tokens)*half)
	at := 0
	for i := range b.Sequences {
		for j := range b.Sequences[i].Count {
			pos := float32(b.Sequences[i].Start + j)
			for _, f := range r.inverse {
				sin, cos := math.Sincos(float64(pos * f))
				r.cos[at], r.sin[at] = float32(cos), float32(sin)
				at++
			}
		}
	}
}

// of returns the cosines and sines for token t of the step.
func (r *rope) of(t int) (cos, sin []float32) {
	half := len(r.inverse)
	return r.cos[t*half : (t+1)*half], r.sin[t*half : (t+1)*half]
}

// embedding looks rows up in the embedding tensor where it lies in the checkpoint.
type embedding struct {
	raw   []byte
	dtype tensor.DType
	dim   int
}

func (l *loader) embedding(name string, vocabulary, hidden int) embedding {
	t, ok := l.tensor(name, vocabulary, hidden)
	if !ok {
		return embedding{}
	}
	row := make([]float32, hidden)
	for i := range vocabulary {
		r, err := t.Index(i)
		if err != nil {
			l.err = err
			return embedding{}
		}
		if !l.read(r, row) {
			return embedding{}
		}
	}
	return embedding{raw: t.Raw(), dtype: t.DType, dim: hidden}
}

// rows writes the embeddings of tokens to x, (len(tokens), dim).
func (e *embedding) rows(x tensor.Rows, tokens []int32) {
	size := e.dim * e.dtype.Size()
	for i, t := range tokens {
		raw := e.raw[int(t)*size : (int(t)+1)*size]
		dst := x.Row(i)
		switch e.dtype {
		case tensor.BF16:
			getBF16(dst, raw)
		case tensor.F16:
			for j := range dst {
				dst[j] = tensor.F16ToFloat32(uint16(raw[2*j]) | uint16(raw[2*j+1])<<8)
			}
		default:
			for j := range dst {
				dst[j] = math.Float32frombits(uint32(raw[4*j]) | uint32(raw[4*j+1])<<8 |
					uint32(raw[4*j+2])<<16 | uint32(raw[4*j+3])<<24)
			}
		}
	}
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
