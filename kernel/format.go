package kernel

import (
	"fmt"
	"math"
)

// Format is how a linear layer's weights are packed and multiplied.
//
// Outputs are packed by 16, missing ones and missing inputs are zero, and every step
// of a kernel is a line of 64 bytes, in which dword r belongs to output r:
//
//	WeightsF32   [N/16][K] lines: the 16 outputs' weights of one input
//	WeightsBF16  [N/16][K/2] lines: dword r holds inputs 2l (low half) and 2l+1
//	WeightsInt8  [N/16][K/64] superblocks of 17 lines: line l < 16 holds inputs
//	             4l..4l+3, byte j of a dword input 4l+j, as code+128; line 16
//	             holds 16 float32 scales
//	WeightsInt4  [N/16][K/64] superblocks of 9 lines: lines 0-3 hold inputs 0..31,
//	             lines 4-7 inputs 32..63, byte j of a dword in line l of four input
//	             8l+j in its low half and 8l+4+j in its high half, as code+8;
//	             line 8 holds 16 float16 scales of the first half, then of the second
//	WeightsFP8   as WeightsInt8, with e4m3 codes and float32 scales times 2^120
//
// A weight is its scale times its code: -127..127, -8..7, or an e4m3 of up to 448.
type Format uint8

const (
	// WeightsF32 are float32, multiplied in float32.
	WeightsF32 Format = iota + 1
	// WeightsBF16 are bfloat16, multiplied in float32.
	WeightsBF16
	// WeightsInt8 have a scale for 64 inputs of an output; see Activations.
	WeightsInt8
	// WeightsInt4 have a scale for 32 inputs of an output; see Activations.
	WeightsInt4
	// WeightsFP8 are e4m3 with a scale for 64 inputs of an output, multiplied in float32.
	WeightsFP8

	lastFormat = WeightsFP8
)

var formatNames = [...]string{"", "f32", "bf16", "int8", "int4", "fp8"}

// String returns the format's name.
func (f Format) String() string {
	if int(f) < len(formatNames) && f > 0 {
		return formatNames[f]
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// Integer reports whether rows are quantised to 8 bits before they are multiplied.
func (f Format) Integer() bool { return f == WeightsInt8 || f == WeightsInt4 }

// scaled reports whether weights are codes with scales.
func (f Format) scaled() bool { return f >= WeightsInt8 }

const (
	// blockRows is the number of outputs that are packed together.
	blockRows = 16
	lineBytes = 64
	// groupInputs is the number of inputs whose weights of an output share a scale, of 4 bits
	// half as many; spanGroups times as many of a row's do.
	groupInputs = 64

	int8Bytes, int8Scales = 17 * lineBytes, 16 * lineBytes
	int4Bytes, int4Scales = 9 * lineBytes, 8 * lineBytes
)

// blockBytes is the packed size of 16 outputs with k inputs.
func (f Format) blockBytes(k int) int {
	groups := (k + groupInputs - 1) / groupInputs
	switch f {
	case WeightsInt4:
		return groups * int4Bytes
	case WeightsInt8:
		return groups * int8Bytes
	case WeightsFP8:
		return groups * fp8Bytes
	case WeightsBF16:
		return (k + 1) / 2 * lineBytes
	}
	return k * lineBytes
}

// MatrixBytes is the packed size of an n × k matrix.
func MatrixBytes(n, k int, f Format) int {
	return (n + blockRows - 1) / blockRows * f.blockBytes(k)
}

// Shape is the dimensions and the format of a matrix: N outputs, K inputs.
type Shape struct {
	N, K   int
	Format Format
}

// Check refuses a shape of which there is no matrix.
func (s Shape) Check() error { return checkMatrix(s.N, s.K, s.Format) }

// checkMatrix refuses dimensions and formats of which there is no matrix.
func checkMatrix(n, k int, f Format) error {
	if n <= 0 || k <= 0 || n > math.MaxInt32 || k > math.MaxInt32 {
		return fmt.Errorf("make a %d × %d matrix: dimensions must be 1 to 2^31-1", n, k)
	}
	if f < WeightsF32 || f > lastFormat {
		return fmt.Errorf("make a %d × %d matrix: unknown format %v", n, k, f)
	}
	return nil
}
