package kernel

import (
	"fmt"
	"runtime"
	"unsafe"

	"drover/tensor"
)

// Matrix is the packed weights of a linear layer with N outputs and K inputs. One
// packing serves decode and prefill.
type Matrix struct {
	N, K   int
	format Format
	w      []byte
	// blockBytes is the size of the packed weights of 16 outputs.
	blockBytes int
	owner      any // keeps w alive
}

// NewMatrix makes an n × k matrix of zeros in memory of its own. Fill it with SetRow.
func NewMatrix(n, k int, f Format) (*Matrix, error) {
	if err := checkMatrix(n, k, f); err != nil {
		return nil, err
	}
	buf, err := NewBuffer(MatrixBytes(n, k, f))
	if err != nil {
		return nil, fmt.Errorf("make a %d × %d matrix: %w", n, k, err)
	}
	return MapMatrix(n, k, f, buf.Bytes(), buf)
}

// MapMatrix makes an n × k matrix of weights packed before, in memory that owner
// keeps: MatrixBytes(n, k, f) bytes that begin at a multiple of 64.
func MapMatrix(n, k int, f Format, w []byte, owner any) (*Matrix, error) {
	if err := checkMatrix(n, k, f); err != nil {
		return nil, err
	}
	if size := MatrixBytes(n, k, f); len(w) != size || uintptr(unsafe.Pointer(&w[0]))%lineBytes != 0 {
		return nil, fmt.Errorf("map a %d × %d matrix of %v: %d bytes, must be %d that begin at a "+
			"multiple of %d", n, k, f, len(w), size, lineBytes)
	}
	return &Matrix{N: n, K: k, format: f, w: w, blockBytes: f.blockBytes(k), owner: owner}, nil
}

// Shape returns N and K.
func (m *Matrix) Shape() (outputs, inputs int) { return m.N, m.K }

// Bytes is the size of the packed weights.
func (m *Matrix) Bytes() int { return len(m.w) }

// Format is how the weights are packed.
func (m *Matrix) Format() Format { return m.format }

// Packed returns the packed weights, to be read only, and only while m is alive.
func (m *Matrix) Packed() []byte { return m.w }

// SetRow packs the weights of output n, one for each input, rounding them to the
// matrix's format. Weights that are not finite, or too large for a scale, are an error.
func (m *Matrix) SetRow(n int, weights []float32) error {
	weights = weights[:m.K]
	block, r := m.block(n-n%blockRows), n%blockRows
	switch m.format {
	case WeightsInt8:
		return setInt8(block, r, weights)
	case WeightsInt4:
		return setInt4(block, r, weights)
	case WeightsFP8:
		return setFP8(block, r, weights)
	case WeightsBF16:
		for k, v := range weights {
			h := tensor.Float32ToBF16(v)
			at := k/2*lineBytes + r*4 + k%2*2
			block[at], block[at+1] = byte(h), byte(h>>8)
		}
	default:
		for k, v := range weights {
			*(*float32)(unsafe.Pointer(&block[k*lineBytes+r*4])) = v
		}
	}
	return nil
}

// At returns the packed weight of input k to output n.
func (m *Matrix) At(n, k int) float32 {
	block, r := m.block(n-n%blockRows), n%blockRows
	switch m.format {
	case WeightsInt8:
		return atInt8(block, r, k)
	case WeightsInt4:
		return atInt4(block, r, k)
	case WeightsFP8:
		return atFP8(block, r, k)
	case WeightsBF16:
		at := k/2*lineBytes + r*4 + k%2*2
		return tensor.BF16ToFloat32(uint16(block[at]) | uint16(block[at+1])<<8)
	}
	return *(*float32)(unsafe.Pointer(&block[k*lineBytes+r*4]))
}

// Mul sets y = x Wᵀ: x is (rows, K), y is (rows, N). It makes the memory it needs;
// MulPart does not.
func (m *Matrix) Mul(y, x tensor.Rows) {
	var a Activations
	a.Prepare(x, m.format)
	a.Quantise(0, x.N)
	m.MulPart(y, &a, 0, m.N)
}

// PartOutputs is what the outputs of a product are divided by at best, and the bounds
// of MulPart are multiples of.
const PartOutputs = 4 * blockRows

// MulPart sets outputs lo to hi, without hi, of y = x Wᵀ for prepared rows x, (rows,
// K); y is (rows, N). lo is a multiple of PartOutputs, and so is hi unless it is N.
func (m *Matrix) MulPart(y tensor.Rows, a *Activations, lo, hi int) {
	if a.x.Dim != m.K || y.Dim != m.N || a.x.N != y.N || lo < 0 || hi > m.N ||
		lo%PartOutputs != 0 || hi%PartOutputs != 0 && hi != m.N || !a.fits(m.format) {
		panic(fmt.Sprintf("kernel: (%d,%d) of %v × outputs %d to %d of %d×%d matrix of %v into (%d,%d)",
			a.x.N, a.x.Dim, a.format, lo, hi, m.N, m.K, m.format, y.N, y.Dim))
	}
	if lo < hi && y.N > 0 && !m.mulVector(y, a, lo, hi) {
		m.mulGeneric(y, a, lo, hi)
	}
	runtime.KeepAlive(m.owner)
}

// mulGeneric is MulPart in plain Go: the reference that every kernel is compared with.
func (m *Matrix) mulGeneric(y tensor.Rows, a *Activations, lo, hi int) {
	for i := range y.N {
		for n0 := lo; n0 < hi; n0 += blockRows {
			var acc [blockRows]float32
			switch m.format {
			case WeightsInt8:
				accumulateInt8(&acc, m.block(n0), a, i)
			case WeightsInt4:
				accumulateInt4(&acc, m.block(n0), a, i)
			case WeightsBF16:
				accumulateBF16(&acc, m.block(n0), a.x.Row(i))
			case WeightsFP8:
				accumulateFP8(&acc, m.block(n0), a.x.Row(i))
			default:
				accumulateF32(&acc, m.block(n0), a.x.Row(i))
			}
			copy(y.Row(i)[n0:hi], acc[:])
		}
	}
}

// block returns the packed weights of the 16 outputs from n0 on.
func (m *Matrix) block(n0 int) []byte {
	at := n0 / blockRows * m.blockBytes
	return m.w[at : at+m.blockBytes]
}

func accumulateBF16(acc *[blockRows]float32, w []byte, x []float32) {
	for k, v := range x {
		line := w[k/2*lineBytes : k/2*lineBytes+lineBytes]
		for r := range acc {
			at := r*4 + (k%2)*2
			h := uint16(line[at]) | uint16(line[at+1])<<8
			acc[r] = fma32(tensor.BF16ToFloat32(h), v, acc[r])
		}
	}
}

func accumulateF32(acc *[blockRows]float32, w []byte, x []float32) {
	for k, v := range x {
		line := (*[blockRows]float32)(unsafe.Pointer(&w[k*lineBytes]))
		for r := range acc {
			acc[r] = fma32(line[r], v, acc[r])
		}
	}
}
