package kernel

import (
	"fmt"
	"math"
	"unsafe"

	"drover/tensor"
)

// KVTokens is the number of positions in a KV tile.
const KVTokens = 16

// MaxHeadDim bounds the size of a head, so that one call of assembly stays short.
const MaxHeadDim = 4096

// KVLayout says how the keys and values of KVTokens neighbouring positions of one layer
// are kept: a KV tile. It holds, for each head in turn,
//
//	scales  [keys, values][16 positions] of float32, in 8 bits only
//	keys    [HeadDim][16 positions]
//	values  [16 positions][HeadDim, up to a multiple of 16]
//
// so that 16 scores, or 16 elements of a result, are one vector without sums across
// its lanes. Elements are float32 (PrecisionExact), bfloat16, or int8 codes -127..127
// with a scale for each position and head, chosen as Activations does: scale =
// max|x| / 127, code = x times (127 / max|x|), rounded to even. A NaN or an infinity
// gives a NaN scale.
type KVLayout struct {
	Heads, HeadDim int
	Precision      Precision
}

// Check refuses layouts of which there are no tiles.
func (l KVLayout) Check() error {
	if l.Heads < 1 || l.HeadDim < 1 || l.HeadDim > MaxHeadDim || l.Heads > math.MaxInt32/MaxHeadDim {
		return fmt.Errorf("keys and values of %d heads of %d: a head has 1 to %d elements",
			l.Heads, l.HeadDim, MaxHeadDim)
	}
	if l.Precision < PrecisionExact || l.Precision > PrecisionInt8 {
		return fmt.Errorf("keys and values in %v: use exact, bf16 or int8", l.Precision)
	}
	return nil
}

// TileBytes is the size of a tile, a multiple of KVTokens.
func (l KVLayout) TileBytes() int { return l.Heads * l.headBytes() }

// elementBytes is the size of an element.
func (l KVLayout) elementBytes() int {
	switch l.Precision {
	case PrecisionInt8:
		return 1
	case PrecisionBF16:
		return 2
	}
	return 4
}

// scaleBytes is the size of a head's scales in a tile.
func (l KVLayout) scaleBytes() int {
	if l.Precision == PrecisionInt8 {
		return 2 * KVTokens * 4
	}
	return 0
}

// dims is the number of a value's elements that are kept, and computed.
func (l KVLayout) dims() int { return (l.HeadDim + 15) &^ 15 }

func (l KVLayout) headBytes() int {
	return l.scaleBytes() + KVTokens*(l.HeadDim+l.dims())*l.elementBytes()
}

// split returns a head's keys and values in a tile.
func (l KVLayout) split(head []byte) (keys, values []byte) {
	from := l.scaleBytes()
	to := from + KVTokens*l.HeadDim*l.elementBytes()
	return head[from:to:to], head[to:]
}

// Put writes the keys and values, (Heads, HeadDim) each, of position at of a tile, from
// 0 to KVTokens-1.
func (l KVLayout) Put(tile []byte, at int, key, value []float32) {
	if at < 0 || at >= KVTokens || len(key) != l.Heads*l.HeadDim || len(value) != len(key) {
		panic(fmt.Sprintf("kernel: put %d keys and %d values of %d heads of %d at %d of a tile",
			len(key), len(value), l.Heads, l.HeadDim, at))
	}
	n, size, dims := l.HeadDim, l.elementBytes(), l.dims()
	for h := range l.Heads {
		head := tile[h*l.headBytes() : (h+1)*l.headBytes()]
		k, v := l.split(head)
		l.putVector(k[at*size:], KVTokens*size, key[h*n:(h+1)*n])
		row := v[at*dims*size:]
		l.putVector(row, size, value[h*n:(h+1)*n])
		clear(row[n*size : dims*size])
		if l.Precision == PrecisionInt8 {
			keyScales, valueScales := kvScales(head)
			keyScales[at] = scaleKV(key[h*n : (h+1)*n])
			valueScales[at] = scaleKV(value[h*n : (h+1)*n])
		}
	}
}

// kvScales returns a head's scales, in 8 bits.
func kvScales(head []byte) (keys, values *[KVTokens]float32) {
	const size = KVTokens * 4
	head = head[:2*size]
	return (*[KVTokens]float32)(unsafe.Pointer(&head[0])),
		(*[KVTokens]float32)(unsafe.Pointer(&head[size]))
}

// putVector writes the elements of x, stride bytes apart.
func (l KVLayout) putVector(b []byte, stride int, x []float32) {
	switch l.Precision {
	case PrecisionInt8:
		inverse := float32(0)
		if largest := absMax(x); largest >= smallestGroup && largest <= math.MaxFloat32 {
			inverse = 127 / largest
		}
		for i, v := range x {
			code := 0.0
			if inverse != 0 {
				code = math.RoundToEven(float64(float32(v * inverse)))
			}
			b[i*stride] = byte(int8(min(max(code, -127), 127)))
		}
	case PrecisionBF16:
		putBF16(b, stride, x)
	default:
		for i, v := range x {
			*(*float32)(unsafe.Pointer(&b[i*stride : i*stride+4 : i*stride+4][0])) = v
		}
	}
}

// putBF16 writes the elements of x, rounded to bfloat16, stride bytes apart.
func putBF16(b []byte, stride int, x []float32) {
	const size = 2
	if stride == size {
		narrow(b[:size*len(x)], x)
		return
	}
	var part [64 * size]byte
	for at := 0; len(x) > 0; {
		n := min(len(x), len(part)/size)
		narrow(part[:size*n], x[:n])
		for i := range n {
			b[at], b[at+1] = part[size*i], part[size*i+1]
			at += stride
		}
		x = x[n:]
	}
}

// scaleKV is the scale of a key or value in 8 bits.
func scaleKV(x []float32) float32 {
	switch largest := absMax(x); {
	case !(largest <= math.MaxFloat32):
		return float32(math.NaN())
	case largest < smallestGroup:
		return 0
	default:
		return largest / 127
	}
}

// widenVector sets w to the 16 elements at b, without their scales.
func (l KVLayout) widenVector(w *[KVTokens]float32, b []byte) {
	switch l.Precision {
	case PrecisionInt8:
		for i, c := range b[:KVTokens] {
			w[i] = float32(int8(c))
		}
	case PrecisionBF16:
		for i := range w {
			w[i] = tensor.BF16ToFloat32(uint16(b[2*i]) | uint16(b[2*i+1])<<8)
		}
	default:
		*w = *(*[KVTokens]float32)(unsafe.Pointer(&b[:KVTokens*4][0]))
	}
}
