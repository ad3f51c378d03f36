package model

import (
	"fmt"
	"math"
	"strings"

	"drover/checkpoint"
	"drover/kernel"
	"drover/tensor"
)

// Weights of F8_E4M3 have their scales in another tensor of the checkpoint. Named
// weight_scale, it holds one for each output or one for all; named weight_scale_inv, one for
// each block of 128 × 128 weights, or what weight_block_size says. Both multiply. Published
// models differ in what they leave in bfloat16: a tensor's type decides, not the configuration.
const (
	scaleSuffix, blockScaleSuffix = "_scale", "_scale_inv"

	defaultScaleBlock = 128
	scaleGroup        = 64 // inputs that share a scale when they are packed
	maxScaleBlock     = 1 << 20
)

// isScale reports whether a tensor holds the scales of another.
func isScale(name string) bool {
	return strings.HasSuffix(name, scaleSuffix) || strings.HasSuffix(name, blockScaleSuffix)
}

// checkQuantised refuses checkpoints whose weights are packed in another way than F8_E4M3.
func checkQuantised(ck *checkpoint.Checkpoint) error {
	config, ok := ck.Config().Sub("quantization_config")
	if !ok {
		return nil
	}
	r := config.Reader()
	method, format := r.String("quant_method", ""), r.String("format", "")
	if err := r.Err(); err != nil {
		return fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	if method == "fp8" || method == "compressed-tensors" && format == "float-quantized" {
		return nil
	}
	return fmt.Errorf("%s: config.json: quantised weights (quantization_config) of method %q, "+
		"format %q: %w; of quantised weights only F8_E4M3 is read", ck.Dir(), method, format,
		ErrUnsupported)
}

// scales are where the scales of a tensor lie.
type scales struct {
	t               checkpoint.Tensor
	outputs, inputs int // of a block of weights that share one
}

// scales finds the scales of t, (outputs, inputs) of F8_E4M3.
func (l *loader) scales(t checkpoint.Tensor) (*scales, error) {
	outputs, inputs := t.Shape[0], t.Shape[1]
	if s, err := l.ck.Tensor(t.Name + scaleSuffix); err == nil {
		switch s.Elements() {
		case outputs:
			return &scales{s, 1, inputs}, nil
		case 1:
			return &scales{s, outputs, inputs}, nil
		}
		return nil, fmt.Errorf("%s: tensor %s: shape is %v, must be one scale or %d, one for each "+
			"output", s.File(), s.Name, s.Shape, outputs)
	}
	s, err := l.ck.Tensor(t.Name + blockScaleSuffix)
	if err != nil {
		return nil, fmt.Errorf("%s: tensor %s: type is %s, and there is neither %s%s nor %s%s",
			t.File(), t.Name, t.DType, t.Name, scaleSuffix, t.Name, blockScaleSuffix)
	}
	block, err := scaleBlock(l.ck)
	if err != nil {
		return nil, err
	}
	rows, columns := (outputs-1)/block[0]+1, (inputs-1)/block[1]+1
	if len(s.Shape) != 2 || s.Shape[0] != rows || s.Shape[1] != columns {
		return nil, fmt.Errorf("%s: tensor %s: shape is %v, must be [%d %d] for blocks of %d × %d",
			s.File(), s.Name, s.Shape, rows, columns, block[0], block[1])
	}
	return &scales{s, block[0], block[1]}, nil
}

// scaleBlock is the size of the blocks that share a scale.
func scaleBlock(ck *checkpoint.Checkpoint) (block [2]int, err error) {
	block = [2]int{defaultScaleBlock, defaultScaleBlock}
	config, ok := ck.Config().Sub("quantization_config")
	if !ok {
		return block, nil
	}
	r := config.Reader()
	if list, ok := r.Ints("weight_block_size", 2, 1, maxScaleBlock); ok {
		if len(list) != 2 {
			r.Fail("weight_block_size", fmt.Sprintf("has %d entries, must have 2", len(list)))
		}
		copy(block[:], list)
		if block[1]%scaleGroup != 0 {
			r.Fail("weight_block_size", fmt.Sprintf("is %v, inputs must be a multiple of %d", list,
				scaleGroup))
		}
	}
	if err := r.Err(); err != nil {
		return block, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	return block, nil
}

// readScales returns the scales' values.
func (l *loader) readScales(s *scales) (*kernel.Scales, error) {
	switch s.t.DType {
	case tensor.BF16, tensor.F16, tensor.F32:
	default:
		return nil, fmt.Errorf("%s: tensor %s: type is %s, scales must be BF16, F16 or F32",
			s.t.File(), s.t.Name, s.t.DType)
	}
	out := &kernel.Scales{Values: make([]float32, s.t.Elements()), Outputs: s.outputs,
		Inputs: s.inputs, Stride: 1}
	if len(s.t.Shape) == 2 {
		out.Stride = s.t.Shape[1]
	}
	var err error
	if l.Absent != nil && !s.t.Present() {
		err = l.Absent(s.t, func(src []byte) error { return s.t.Float32Of(out.Values, src) })
	} else {
		err = s.t.Float32(out.Values)
	}
	if err != nil {
		return nil, err
	}
	for i, v := range out.Values {
		if !(v >= 0 && v <= math.MaxFloat32) {
			return nil, fmt.Errorf("%s: tensor %s: scale %d is %g, must be finite and not negative",
				s.t.File(), s.t.Name, i, v)
		}
	}
	return out, nil
}
