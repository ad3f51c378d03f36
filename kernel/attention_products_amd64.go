package kernel

// kvKernels are the products of an instruction set and precision.
type kvKernels struct {
	// keys and values are for 1, 2, ... rows. One call takes so many tiles of keys,
	// or elements of values.
	keys, values    [maxProductRows]func(p *kvProduct)
	tiles, elements int
}

// The products by precision, from PrecisionExact on.
var (
	kvAVX512 = [...]kvKernels{
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysF32r1AVX512, keysF32r2AVX512, keysF32r3AVX512,
				keysF32r4AVX512, keysF32r5AVX512, keysF32r6AVX512,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesF32r1AVX512, valuesF32r2AVX512, valuesF32r3AVX512,
				valuesF32r4AVX512, valuesF32r5AVX512, valuesF32r6AVX512,
			},
			tiles: 4, elements: 64,
		},
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysBF16r1AVX512, keysBF16r2AVX512, keysBF16r3AVX512,
				keysBF16r4AVX512, keysBF16r5AVX512, keysBF16r6AVX512,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesBF16r1AVX512, valuesBF16r2AVX512, valuesBF16r3AVX512,
				valuesBF16r4AVX512, valuesBF16r5AVX512, valuesBF16r6AVX512,
			},
			tiles: 4, elements: 64,
		},
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysInt8r1AVX512, keysInt8r2AVX512, keysInt8r3AVX512,
				keysInt8r4AVX512, keysInt8r5AVX512, keysInt8r6AVX512,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesInt8r1AVX512, valuesInt8r2AVX512, valuesInt8r3AVX512,
				valuesInt8r4AVX512, valuesInt8r5AVX512, valuesInt8r6AVX512,
			},
			tiles: 4, elements: 64,
		},
	}
	// kvFewAVX512 is for float32 and rows that one call takes.
	kvFewAVX512 = [...]kvKernels{
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysFewF32r1AVX512, keysFewF32r2AVX512, keysFewF32r3AVX512,
				keysFewF32r4AVX512, keysFewF32r5AVX512, keysFewF32r6AVX512,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesFewF32r1AVX512, valuesFewF32r2AVX512, valuesFewF32r3AVX512,
				valuesFewF32r4AVX512, valuesFewF32r5AVX512, valuesFewF32r6AVX512,
			},
			tiles: 4, elements: 64,
		},
	}
	kvAVX2 = [...]kvKernels{
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysF32r1AVX2, keysF32r2AVX2, keysF32r3AVX2,
				keysF32r4AVX2, keysF32r5AVX2, keysF32r6AVX2,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesF32r1AVX2, valuesF32r2AVX2, valuesF32r3AVX2,
				valuesF32r4AVX2, valuesF32r5AVX2, valuesF32r6AVX2,
			},
			tiles: 1, elements: 16,
		},
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysBF16r1AVX2, keysBF16r2AVX2, keysBF16r3AVX2,
				keysBF16r4AVX2, keysBF16r5AVX2, keysBF16r6AVX2,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesBF16r1AVX2, valuesBF16r2AVX2, valuesBF16r3AVX2,
				valuesBF16r4AVX2, valuesBF16r5AVX2, valuesBF16r6AVX2,
			},
			tiles: 1, elements: 16,
		},
		{
			keys: [maxProductRows]func(p *kvProduct){
				keysInt8r1AVX2, keysInt8r2AVX2, keysInt8r3AVX2,
				keysInt8r4AVX2, keysInt8r5AVX2, keysInt8r6AVX2,
			},
			values: [maxProductRows]func(p *kvProduct){
				valuesInt8r1AVX2, valuesInt8r2AVX2, valuesInt8r3AVX2,
				valuesInt8r4AVX2, valuesInt8r5AVX2, valuesInt8r6AVX2,
			},
			tiles: 1, elements: 16,
		},
	}
)

// kernels returns the products of so many rows in a layout, and those for the last of a value's
// elements, if they are too few; nil where only plain Go can multiply.
func (l *KVLayout) kernels(rows int) (k, tail *kvKernels) {
	i := l.Precision - PrecisionExact
	switch {
	case level < avx2:
		return nil, nil
	case level < avx512:
		return &kvAVX2[i], &kvAVX2[i]
	case l.Precision == PrecisionExact && rows <= maxProductRows:
		return &kvFewAVX512[0], &kvAVX2[i]
	}
	return &kvAVX512[i], &kvAVX2[i]
}

//go:noescape
func keysF32r1AVX512(p *kvProduct)

//go:noescape
func keysF32r2AVX512(p *kvProduct)

//go:noescape
func keysF32r3AVX512(p *kvProduct)

//go:noescape
func keysF32r4AVX512(p *kvProduct)

//go:noescape
func keysF32r5AVX512(p *kvProduct)

//go:noescape
func keysF32r6AVX512(p *kvProduct)

//go:noescape
func valuesF32r1AVX512(p *kvProduct)

//go:noescape
func valuesF32r2AVX512(p *kvProduct)

//go:noescape
func valuesF32r3AVX512(p *kvProduct)

//go:noescape
func valuesF32r4AVX512(p *kvProduct)

//go:noescape
func valuesF32r5AVX512(p *kvProduct)

//go:noescape
func valuesF32r6AVX512(p *kvProduct)

//go:noescape
func keysFewF32r1AVX512(p *kvProduct)

//go:noescape
func keysFewF32r2AVX512(p *kvProduct)

//go:noescape
func keysFewF32r3AVX512(p *kvProduct)

//go:noescape
func keysFewF32r4AVX512(p *kvProduct)

//go:noescape
func keysFewF32r5AVX512(p *kvProduct)

//go:noescape
func keysFewF32r6AVX512(p *kvProduct)

//go:noescape
func valuesFewF32r1AVX512(p *kvProduct)

//go:noescape
func valuesFewF32r2AVX512(p *kvProduct)

//go:noescape
func valuesFewF32r3AVX512(p *kvProduct)

//go:noescape
func valuesFewF32r4AVX512(p *kvProduct)

//go:noescape
func valuesFewF32r5AVX512(p *kvProduct)

//go:noescape
func valuesFewF32r6AVX512(p *kvProduct)

//go:noescape
func keysBF16r1AVX512(p *kvProduct)

//go:noescape
func keysBF16r2AVX512(p *kvProduct)

//go:noescape
func keysBF16r3AVX512(p *kvProduct)

//go:noescape
func keysBF16r4AVX512(p *kvProduct)

//go:noescape
func keysBF16r5AVX512(p *kvProduct)

//go:noescape
func keysBF16r6AVX512(p *kvProduct)

//go:noescape
func valuesBF16r1AVX512(p *kvProduct)

//go:noescape
func valuesBF16r2AVX512(p *kvProduct)

//go:noescape
func valuesBF16r3AVX512(p *kvProduct)

//go:noescape
func valuesBF16r4AVX512(p *kvProduct)

//go:noescape
func valuesBF16r5AVX512(p *kvProduct)

//go:noescape
func valuesBF16r6AVX512(p *kvProduct)

//go:noescape
func keysInt8r1AVX512(p *kvProduct)

//go:noescape
func keysInt8r2AVX512(p *kvProduct)

//go:noescape
func keysInt8r3AVX512(p *kvProduct)

//go:noescape
func keysInt8r4AVX512(p *kvProduct)

//go:noescape
func keysInt8r5AVX512(p *kvProduct)

//go:noescape
func keysInt8r6AVX512(p *kvProduct)

//go:noescape
func valuesInt8r1AVX512(p *kvProduct)

//go:noescape
func valuesInt8r2AVX512(p *kvProduct)

//go:noescape
func valuesInt8r3AVX512(p *kvProduct)

//go:noescape
func valuesInt8r4AVX512(p *kvProduct)

//go:noescape
func valuesInt8r5AVX512(p *kvProduct)

//go:noescape
func valuesInt8r6AVX512(p *kvProduct)

//go:noescape
func keysF32r1AVX2(p *kvProduct)

//go:noescape
func keysF32r2AVX2(p *kvProduct)

//go:noescape
func keysF32r3AVX2(p *kvProduct)

//go:noescape
func keysF32r4AVX2(p *kvProduct)

//go:noescape
func keysF32r5AVX2(p *kvProduct)

//go:noescape
func keysF32r6AVX2(p *kvProduct)

//go:noescape
func valuesF32r1AVX2(p *kvProduct)

//go:noescape
func valuesF32r2AVX2(p *kvProduct)

//go:noescape
func valuesF32r3AVX2(p *kvProduct)

//go:noescape
func valuesF32r4AVX2(p *kvProduct)

//go:noescape
func valuesF32r5AVX2(p *kvProduct)

//go:noescape
func valuesF32r6AVX2(p *kvProduct)

//go:noescape
func keysBF16r1AVX2(p *kvProduct)

//go:noescape
func keysBF16r2AVX2(p *kvProduct)

//go:noescape
func keysBF16r3AVX2(p *kvProduct)

//go:noescape
func keysBF16r4AVX2(p *kvProduct)

//go:noescape
func keysBF16r5AVX2(p *kvProduct)

//go:noescape
func keysBF16r6AVX2(p *kvProduct)

//go:noescape
func valuesBF16r1AVX2(p *kvProduct)

//go:noescape
func valuesBF16r2AVX2(p *kvProduct)

//go:noescape
func valuesBF16r3AVX2(p *kvProduct)

//go:noescape
func valuesBF16r4AVX2(p *kvProduct)

//go:noescape
func valuesBF16r5AVX2(p *kvProduct)

//go:noescape
func valuesBF16r6AVX2(p *kvProduct)

//go:noescape
func keysInt8r1AVX2(p *kvProduct)

//go:noescape
func keysInt8r2AVX2(p *kvProduct)

//go:noescape
func keysInt8r3AVX2(p *kvProduct)

//go:noescape
func keysInt8r4AVX2(p *kvProduct)

//go:noescape
func keysInt8r5AVX2(p *kvProduct)

//go:noescape
func keysInt8r6AVX2(p *kvProduct)

//go:noescape
func valuesInt8r1AVX2(p *kvProduct)

//go:noescape
func valuesInt8r2AVX2(p *kvProduct)

//go:noescape
func valuesInt8r3AVX2(p *kvProduct)

//go:noescape
func valuesInt8r4AVX2(p *kvProduct)

//go:noescape
func valuesInt8r5AVX2(p *kvProduct)

//go:noescape
func valuesInt8r6AVX2(p *kvProduct)
