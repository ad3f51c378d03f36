package kernel

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"drover/tensor"
)

// blockRows is the number of output features that are packed together.
const blockRows = 16

// Matrix is the packed weights of a linear layer with N outputs and K inputs.
//
// Weights of bfloat16 lie as [N/16][K/2][16 outputs][2 inputs], so that one step of
// two inputs is 64 bytes: a little-endian dword for each output, its low half for
// the even input. Weights of float32 lie as [N/16][K][16 outputs]. Missing outputs
// and inputs are zero. One packing serves decode and prefill.
type Matrix struct {
	N, K  int
	dtype tensor.DType
	buf   *Buffer
	w     []byte
	// blockBytes is the size of the packed weights of 16 outputs.
	blockBytes int
}

// MatrixBytes is the packed size of an n × k matrix whose weights are of type d,
// BF16 or F32.
func MatrixBytes(n, k int, d tensor.DType) int {
	blocks := (n + blockRows - 1) / blockRows
	if d == tensor.BF16 {
		return blocks * ((k + 1) / 2) * blockRows * 4
	}
	return blocks * k * blockRows * 4
}

// NewMatrix makes an n × k matrix of zeros for weights of type d, BF16 or F32, in
// memory of its own. Fill it with SetRow.
func NewMatrix(n, k int, d tensor.DType) (*Matrix, error) {
	if n <= 0 || k <= 0 || n > math.MaxInt32 || k > math.MaxInt32 {
		return nil, fmt.Errorf("make a %d × %d matrix: dimensions must be 1 to 2^31-1", n, k)
	}
	if d != tensor.BF16 && d != tensor.F32 {
		return nil, fmt.Errorf("make a matrix of %s: weights must be BF16 or F32", d)
	}
	buf, err := NewBuffer(MatrixBytes(n, k, d))
	if err != nil {
		return nil, fmt.Errorf("make a %d × %d matrix: %w", n, k, err)
	}
	return &Matrix{N: n, K: k, dtype: d, buf: buf, w: buf.Bytes(),
		blockBytes: MatrixBytes(blockRows, k, d)}, nil
}

// Bytes is the size of the packed weights.
func (m *Matrix) Bytes() int { return len(m.w) }

// SetRow packs the weights of output n, one for each input. In a matrix of BF16
// they are rounded to bfloat16.
func (m *Matrix) SetRow(n int, weights []float32) {
	for k, v := range weights[:m.K] {
		m.Set(n, k, v)
	}
}

// SetColumn packs the weights of input k, one for each output.
func (m *Matrix) SetColumn(k int, weights []float32) {
	for n, v := range weights[:m.N] {
		m.Set(n, k, v)
	}
}

// Set packs one weight, that of input k to output n.
func (m *Matrix) Set(n, k int, v float32) {
	block, r := n/blockRows, n%blockRows
	if m.dtype == tensor.BF16 {
		pairs := (m.K + 1) / 2
		at := ((block*pairs+k/2)*blockRows+r)*4 + (k%2)*2
		h := tensor.Float32ToBF16(v)
		m.w[at], m.w[at+1] = byte(h), byte(h>>8)
		return
	}
	at := ((block*m.K+k)*blockRows + r) * 4
	*(*float32)(unsafe.Pointer(&m.w[at])) = v
}

// At returns the packed weight of input k to output n.
func (m *Matrix) At(n, k int) float32 {
	block, r := n/blockRows, n%blockRows
	if m.dtype == tensor.BF16 {
		pairs := (m.K + 1) / 2
		at := ((block*pairs+k/2)*blockRows+r)*4 + (k%2)*2
		return tensor.BF16ToFloat32(uint16(m.w[at]) | uint16(m.w[at+1])<<8)
	}
	at := ((block*m.K+k)*blockRows + r) * 4
	return *(*float32)(unsafe.Pointer(&m.w[at]))
}

// Mul sets y = x Wᵀ: x is (rows, K), y is (rows, N).
func (m *Matrix) Mul(y, x tensor.Rows) {
	if x.Dim != m.K || y.Dim != m.N || x.N != y.N {
		panic(fmt.Sprintf("kernel: (%d,%d) × %d×%d matrix into (%d,%d)",
			x.N, x.Dim, m.N, m.K, y.N, y.Dim))
	}
	if !m.mulVector(y, x) {
		m.mulGeneric(y, x)
	}
	runtime.KeepAlive(m.buf)
}

// mulGeneric is Mul in plain Go: the reference that every kernel is compared with.
func (m *Matrix) mulGeneric(y, x tensor.Rows) {
	for i := range x.N {
		xr, yr := x.Row(i), y.Row(i)
		for n0 := 0; n0 < m.N; n0 += blockRows {
			var acc [blockRows]float32
			if m.dtype == tensor.BF16 {
				accumulateBF16(&acc, m.block(n0), xr)
			} else {
				accumulateF32(&acc, m.block(n0), xr)
			}
			copy(yr[n0:], acc[:])
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
		line := w[k/2*64 : k/2*64+64]
		for r := range acc {
			at := r*4 + (k%2)*2
			h := uint16(line[at]) | uint16(line[at+1])<<8
			acc[r] = fma32(tensor.BF16ToFloat32(h), v, acc[r])
		}
	}
}

func accumulateF32(acc *[blockRows]float32, w []byte, x []float32) {
	for k, v := range x {
		line := (*[blockRows]float32)(unsafe.Pointer(&w[k*64]))
		for r := range acc {
			acc[r] = fma32(line[r], v, acc[r])
		}
	}
}
