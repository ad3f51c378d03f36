package kernel

// packInt8AVX2 packs 64 inputs of 16 outputs. What it returns is not 0 if a weight is not
// finite or too large.
//
//go:noescape
func packInt8AVX2(block *byte, tile *float32) (bad int)

// packInt4AVX2 is packInt8AVX2 for 4 bits.
//
//go:noescape
func packInt4AVX2(block *byte, tile *float32) (bad int)

// packFP8AVX2 is packInt8AVX2 for e4m3.
//
//go:noescape
func packFP8AVX2(block *byte, tile *float32) (bad int)

// widenColumnsAVX2 is widenColumnsGo; n is not 0.
//
//go:noescape
func widenColumnsAVX2(tile *float32, src *byte, stride, n int)

// packColumnsAVX2 is packColumnsGo with a stride of bytes; lines is not 0. What it returns
// is not 0 if a weight is not finite.
//
//go:noescape
func packColumnsAVX2(block, src *byte, stride, lines int) (bad int)

// packRowsAVX2 packs 16*steps inputs of 8 outputs, stride bytes apart, as one half of
// each line; steps is not 0. What it returns is not 0 if a weight is not finite.
//
//go:noescape
func packRowsAVX2(block, src *byte, stride, steps int) (bad int)

// widenLinesAVX2 sets 2*n rows of the tile to the inputs of n lines of bfloat16; n is not 0.
//
//go:noescape
func widenLinesAVX2(tile *float32, lines *byte, n int)

// rowSteps bounds the steps of one call of packRowsAVX2.
const rowSteps = 64

// packRows packs as many of k inputs of 16 outputs as vectors can, and returns how many.
func packRows(block, data []byte, stride, k int) (packed int, ok bool) {
	if level < avx2 {
		return 0, true
	}
	k -= k % 16
	bad := 0
	for at := 0; at < k; at += 16 * rowSteps {
		steps := min(rowSteps, (k-at)/16)
		for half := range 2 {
			bad |= packRowsPart(block[at/2*lineBytes+half*lineBytes/2:],
				data[2*(half*8*stride+at):], stride, steps)
		}
	}
	return k, bad == 0
}

//go:noinline
func packRowsPart(block, data []byte, stride, steps int) int {
	_ = data[2*(7*stride+16*steps)-1]
	return packRowsAVX2(&block[0], &data[0], 2*stride, steps)
}

// fillRows is fill for bfloat16 whose inputs are neighbours, n of them, a multiple of 16
// and not 0; it returns how many it has done.
func (t *tileRows) fillRows(data []byte, stride, n int) int {
	var lines [groupInputs / 2 * lineBytes]byte
	done, _ := packRows(lines[:], data, stride, n)
	if done > 0 {
		widenLinesAVX2(&t[0], &lines[0], done/2)
	}
	return done
}

// packGroup packs 64 inputs of 16 outputs as group g of their block, and reports whether
// all could be packed.
func packGroup(block []byte, g int, f Format, t *tileRows) bool {
	switch {
	case level < avx2:
		return packGroupGo(block, g, f, t)
	case f == WeightsInt8:
		return packInt8AVX2(&block[g*int8Bytes : (g+1)*int8Bytes][0], &t[0]) == 0
	case f == WeightsFP8:
		return packFP8AVX2(&block[g*fp8Bytes : (g+1)*fp8Bytes][0], &t[0]) == 0
	}
	return packInt4AVX2(&block[g*int4Bytes : (g+1)*int4Bytes][0], &t[0]) == 0
}

func widenColumns(t *tileRows, src []byte, stride, n int) {
	if level < avx2 {
		widenColumnsGo(t, src, stride, n)
		return
	}
	_ = src[(n-1)*stride+2*blockRows-1]
	widenColumnsAVX2(&t[0], &src[0], stride, n)
}

// columnLines bounds the lines that one call of assembly packs: it cannot be preempted in
// the middle.
const columnLines = 256

func packColumns(block, data []byte, stride, lines int) bool {
	if level < avx2 {
		return packColumnsGo(block, data, stride, lines)
	}
	_, _ = block[lines*lineBytes-1], data[2*(2*lines-1)*stride+2*blockRows-1]
	bad := 0
	for l := 0; l < lines; l += columnLines {
		bad |= packColumnsPart(block[l*lineBytes:], data[4*l*stride:], stride, min(columnLines, lines-l))
	}
	return bad == 0
}

//go:noinline
func packColumnsPart(block, data []byte, stride, lines int) int {
	return packColumnsAVX2(&block[0], &data[0], 2*stride, lines)
}
