package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"drover/tensor"
)

// Source is the weights of a linear layer as they lie in a checkpoint, little-endian.
type Source struct {
	Data []byte
	// Type is BF16, F16, F32, or F8E4M3 with Scales and inputs that are neighbours.
	Type tensor.DType
	// The weight of output n and input k is element n*OutputStride + k*InputStride.
	OutputStride, InputStride int
	// First is the number of output 0 in messages, and among Scales.
	First  int
	Scales *Scales
}

// Packer is the memory that packing needs. One Packer serves one goroutine.
type Packer struct {
	panel []float32 // (panelOutputs, K)
	tile  tileRows
}

// tileRows is 64 inputs of 16 outputs: (groupInputs, blockRows).
type tileRows [groupInputs * blockRows]float32

// panelOutputs is the number of outputs that are read together: in bfloat16 they fill
// two cache lines of a source whose outputs are neighbours.
const panelOutputs = 4 * blockRows

// Pack packs outputs 0 to count, without count, of a source as m's outputs from first
// on, rounding them to the matrix's format as SetRow does. Other outputs may be packed
// at the same time by other Packers, unless they are among the same 16. Weights that
// are not finite, or too large for a scale, are an error that names the source's output.
func (p *Packer) Pack(m *Matrix, first, count int, s Source) error {
	if first < 0 || count < 0 || first+count > m.N {
		panic(fmt.Sprintf("kernel: pack outputs %d to %d of %d", first, first+count, m.N))
	}
	if count == 0 {
		return nil
	}
	last := (count-1)*s.OutputStride + (m.K-1)*s.InputStride
	if s.OutputStride < 1 || s.InputStride < 1 || last >= len(s.Data)/s.Type.Size() {
		return fmt.Errorf("pack %d × %d weights: %d bytes of them are too few", count, m.K, len(s.Data))
	}
	for n := 0; n < count; n += panelOutputs {
		now := min(panelOutputs, count-n)
		if s.Type == tensor.F8E4M3 {
			if err := p.codes(m, first+n, now, s.from(n)); err != nil {
				return err
			}
			continue
		}
		if now%blockRows == 0 && first%blockRows == 0 && p.blocks(m, first+n, now, s.from(n)) {
			continue
		}
		if err := p.rows(m, first+n, now, s.from(n)); err != nil {
			return err
		}
	}
	return nil
}

// blocks packs whole blocks of 16 outputs. False means that this way does not suit them,
// or that there are weights that cannot be packed: the slow way says which.
func (p *Packer) blocks(m *Matrix, first, count int, s Source) bool {
	switch {
	case m.format.scaled():
		for g := 0; g*groupInputs < m.K; g++ {
			for n := 0; n < count; n += blockRows {
				p.tile.fill(s.from(n), g*groupInputs, min(groupInputs, m.K-g*groupInputs))
				if !packGroup(m.block(first+n), g, m.format, &p.tile) {
					return false
				}
			}
		}
		return true
	case m.format == WeightsBF16 && s.Type == tensor.BF16 && m.K%2 == 0:
		for n := 0; n < count; n += blockRows {
			if !s.packBF16(m.block(first+n), n, m.K) {
				return false
			}
		}
		return true
	}
	return false
}

// fill sets the tile to inputs k to k+n of 16 outputs, and zeros.
func (t *tileRows) fill(s Source, k, n int) {
	clear(t[n*blockRows:])
	s.Data = s.Data[k*s.InputStride*s.Type.Size():]
	switch {
	case s.Type == tensor.BF16 && s.OutputStride == 1:
		widenColumns(t, s.Data, 2*s.InputStride, n)
	case s.Type == tensor.BF16 && s.InputStride == 1:
		done := t.fillRows(s.Data, s.OutputStride, n)
		for r := range blockRows {
			row := s.Data[2*r*s.OutputStride:]
			for i := done; i < n; i++ {
				t[i*blockRows+r] = tensor.BF16ToFloat32(uint16(row[2*i]) | uint16(row[2*i+1])<<8)
			}
		}
	default:
		var row [groupInputs]float32
		for r := range blockRows {
			s.convert(row[:n], r*s.OutputStride, s.InputStride)
			for i, v := range row[:n] {
				t[i*blockRows+r] = v
			}
		}
	}
}

// widenColumnsGo sets n rows of the tile to 16 bfloat16 each, stride bytes apart.
func widenColumnsGo(t *tileRows, src []byte, stride, n int) {
	for i := range n {
		for r := range blockRows {
			at := i*stride + 2*r
			t[i*blockRows+r] = tensor.BF16ToFloat32(uint16(src[at]) | uint16(src[at+1])<<8)
		}
	}
}

// from is the source without its first n outputs.
func (s Source) from(n int) Source {
	s.Data, s.First = s.Data[n*s.OutputStride*s.Type.Size():], s.First+n
	return s
}

// rows packs a few outputs by way of float32.
func (p *Packer) rows(m *Matrix, first, count int, s Source) error {
	p.panel = grow(p.panel, count*m.K)
	if s.InputStride == 1 {
		for r := range count {
			s.convert(p.panel[r*m.K:(r+1)*m.K], r*s.OutputStride, 1)
		}
	} else {
		for k := range m.K {
			s.scatter(p.panel[k:], m.K, count, k*s.InputStride)
		}
	}
	for r := range count {
		row := p.panel[r*m.K : (r+1)*m.K]
		if !Finite(row) {
			return fmt.Errorf("output %d: holds a value that is not finite (NaN or infinity)", s.First+r)
		}
		if err := m.SetRow(first+r, row); err != nil {
			return fmt.Errorf("output %d: %w", s.First+r, err)
		}
	}
	return nil
}

// convert sets dst to elements at, at+stride, and so on.
func (s Source) convert(dst []float32, at, stride int) {
	switch {
	case s.Type == tensor.BF16 && stride == 1:
		WidenBF16(dst, s.Data[2*at:])
	case s.Type == tensor.BF16:
		for i := range dst {
			dst[i] = tensor.BF16ToFloat32(binary.LittleEndian.Uint16(s.Data[2*(at+i*stride):]))
		}
	case s.Type == tensor.F16:
		for i := range dst {
			dst[i] = tensor.F16ToFloat32(binary.LittleEndian.Uint16(s.Data[2*(at+i*stride):]))
		}
	default:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(s.Data[4*(at+i*stride):]))
		}
	}
}

// scatter sets dst[0], dst[width], … to count outputs' elements from at on.
func (s Source) scatter(dst []float32, width, count, at int) {
	if s.Type == tensor.BF16 && s.OutputStride == 1 {
		src := s.Data[2*at : 2*(at+count)]
		for r := range count {
			dst[r*width] = tensor.BF16ToFloat32(uint16(src[2*r]) | uint16(src[2*r+1])<<8)
		}
		return
	}
	var row [panelOutputs]float32
	s.convert(row[:count], at, s.OutputStride)
	for r, v := range row[:count] {
		dst[r*width] = v
	}
}

// packBF16 packs outputs n to n+16 of bfloat16 into a block, and reports whether all of
// them are finite; k is even.
func (s Source) packBF16(block []byte, n, k int) bool {
	data := s.Data[2*n*s.OutputStride:]
	switch {
	case s.InputStride == 1:
		return packRowsBF16(block, data, s.OutputStride, k)
	case s.OutputStride == 1:
		return packColumns(block, data, s.InputStride, k/2)
	}
	return false
}

// infinite has a bit set above each bfloat16 of v whose exponent is all ones.
func infinite(v uint64) uint64 {
	return (v&0x7f807f807f807f80 + 0x0080008000800080) & 0x8000800080008000
}

// packRowsBF16 packs 16 outputs whose inputs are neighbours: dword r of line l is dword
// l of output r. What vectors leave goes by 64 inputs, so that what is written stays in
// the first cache.
func packRowsBF16(block, data []byte, stride, k int) bool {
	odd := uint64(0)
	done, ok := packRows(block, data, stride, k)
	for k0 := done; k0 < k; k0 += groupInputs {
		for r := range blockRows {
			row := data[2*(r*stride+k0) : 2*(r*stride+min(k0+groupInputs, k))]
			at := k0/2*lineBytes + r*4
			for ; len(row) >= 8; row = row[8:] {
				v := binary.LittleEndian.Uint64(row)
				odd |= infinite(v)
				binary.LittleEndian.PutUint32(block[at:], uint32(v))
				binary.LittleEndian.PutUint32(block[at+lineBytes:], uint32(v>>32))
				at += 2 * lineBytes
			}
			if len(row) == 4 {
				v := binary.LittleEndian.Uint32(row)
				odd |= infinite(uint64(v))
				binary.LittleEndian.PutUint32(block[at:], v)
			}
		}
	}
	return ok && odd == 0
}

// packColumnsGo packs 16 outputs that are neighbours: a line takes 16 elements of each
// of two inputs by turns.
func packColumnsGo(block, data []byte, stride, lines int) bool {
	odd := uint64(0)
	for l := range lines {
		even := data[4*l*stride : 4*l*stride+32]
		next := data[2*(2*l+1)*stride : 2*(2*l+1)*stride+32]
		line := block[l*lineBytes : (l+1)*lineBytes]
		for i := 0; i < 32; i += 8 {
			a, b := binary.LittleEndian.Uint64(even[i:]), binary.LittleEndian.Uint64(next[i:])
			odd |= infinite(a) | infinite(b)
			binary.LittleEndian.PutUint64(line[2*i:], spread(a)|spread(b)<<16)
			binary.LittleEndian.PutUint64(line[2*i+8:], spread(a>>32)|spread(b>>32)<<16)
		}
	}
	return odd == 0
}

// spread puts v's two low halves at the low ends of two dwords.
func spread(v uint64) uint64 {
	v &= 0xffffffff
	return (v | v<<16) & 0x0000ffff0000ffff
}

// packGroupGo packs group g of 16 outputs by SetRow's functions.
func packGroupGo(block []byte, g int, f Format, t *tileRows) bool {
	var row [groupInputs]float32
	set, size := setInt8, int8Bytes
	switch f {
	case WeightsInt4:
		set, size = setInt4, int4Bytes
	case WeightsFP8:
		set, size = setFP8, fp8Bytes
	}
	for r := range blockRows {
		for i := range row {
			row[i] = t[i*blockRows+r]
		}
		if set(block[g*size:(g+1)*size], r, row[:]) != nil {
			return false
		}
	}
	return true
}

// rounder makes a float32 below 2^22 an integer, ties to even, when it is added.
const rounder = 3 << 22

// roundCode returns x rounded to an integer, ties to even, for |x| below 2^22.
func roundCode(x float32) int32 {
	return int32(math.Float32bits(float32(x+rounder)) - math.Float32bits(rounder))
}

// largestBits is the largest magnitude, as bits: that of a NaN is above infinity's.
func largestBits(x []float32) uint32 {
	largest := uint32(0)
	for _, v := range x {
		largest = max(largest, math.Float32bits(v)&0x7fffffff)
	}
	return largest
}

// largestScale bounds the scales of 8 bits, so that no sum of a group overflows.
const largestScale = 1e30

// setInt8 packs the weights of output r of a block: the scale is max|w| / 127.
func setInt8(w []byte, r int, weights []float32) error {
	for g := 0; g*groupInputs < len(weights); g++ {
		part := weights[g*groupInputs : min((g+1)*groupInputs, len(weights))]
		block := w[g*int8Bytes : (g+1)*int8Bytes]
		largest := math.Float32frombits(largestBits(part))
		scale, inverse := largest/127, float32(0)
		if !(scale <= largestScale) {
			return fmt.Errorf("weights of inputs %d on: the largest is %g, "+
				"8 bits need weights that are finite and at most %g", g*groupInputs, largest, 127*largestScale)
		}
		if largest >= smallestGroup {
			inverse = 127 / largest
		} else {
			scale = 0
		}
		*(*float32)(unsafe.Pointer(&block[int8Scales+r*4])) = scale
		var codes [groupInputs]byte
		for k := range codes {
			codes[k] = 128
		}
		for k, v := range part {
			codes[k] = byte(128 + min(max(roundCode(float32(v*inverse)), -127), 127))
		}
		for l := range groupInputs / 4 {
			*(*uint32)(unsafe.Pointer(&block[l*lineBytes+r*4])) = binary.LittleEndian.Uint32(codes[4*l:])
		}
	}
	return nil
}

// setInt4 packs the weights of output r of a block. The scale is the weight that is
// largest in magnitude over -8, so that this weight's code is -8, as in the format
// Q4_0 of llama.cpp, rounded to float16.
func setInt4(w []byte, r int, weights []float32) error {
	for k0 := 0; k0 < len(weights) || k0%groupInputs != 0; k0 += 32 {
		part := weights[min(k0, len(weights)):min(k0+32, len(weights))]
		block, half := w[k0/groupInputs*int4Bytes:], k0/32%2
		h := tensor.Float32ToF16(extreme(part) / -8)
		scale, inverse := tensor.F16ToFloat32(h), float32(0)
		if math.IsNaN(float64(scale)) || math.IsInf(float64(scale), 0) {
			return fmt.Errorf("weights of inputs %d on: the largest is %g, "+
				"4 bits need weights that are finite and at most %g", k0, extreme(part), 8*65504.0)
		}
		if scale != 0 {
			inverse = 1 / scale
		}
		*(*uint16)(unsafe.Pointer(&block[int4Scales+half*32+r*2])) = h
		var codes [32]byte
		for j := range codes {
			codes[j] = 8
		}
		for j, v := range part {
			codes[j] = byte(min(max(8+roundCode(float32(v*inverse)), 0), 15))
		}
		for l := range 4 {
			at := (half*4+l)*lineBytes + r*4
			low, high := binary.LittleEndian.Uint32(codes[8*l:]), binary.LittleEndian.Uint32(codes[8*l+4:])
			*(*uint32)(unsafe.Pointer(&block[at])) = low | high<<4
		}
	}
	return nil
}

// extreme is the first of the values that are largest in magnitude, or a NaN.
func extreme(x []float32) float32 {
	if largest := largestBits(x); largest > 0 {
		for _, v := range x {
			if math.Float32bits(v)&0x7fffffff == largest {
				return v
			}
		}
	}
	return 0
}

// FiniteBytes reports whether little-endian elements of type d, BF16, F16 or F32, have
// neither infinities nor NaNs.
func FiniteBytes(b []byte, d tensor.DType) bool {
	if d == tensor.BF16 {
		odd := uint64(0)
		for ; len(b) >= 8; b = b[8:] {
			odd |= infinite(binary.LittleEndian.Uint64(b))
		}
		for ; len(b) >= 2; b = b[2:] {
			odd |= infinite(uint64(binary.LittleEndian.Uint16(b)))
		}
		return odd == 0
	}
	s := Source{Data: b, Type: d}
	var part [256]float32
	for at := 0; at < len(b)/d.Size(); at += len(part) {
		now := part[:min(len(part), len(b)/d.Size()-at)]
		s.convert(now, at, 1)
		if !Finite(now) {
			return false
		}
	}
	return true
}
