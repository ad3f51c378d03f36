package kernel

// kvKernels are the products of an instruction set and precision.
type kvKernels struct {
	// keys and values are for 1, 2, ... rows. One call takes so many tiles of keys,
	// or elements of values.
	keys, values    []func(p *kvProduct)
	tiles, elements int
}

// The products, and tails of 16 elements of values for one row.
var (
	kvBF16AVX512 = kvKernels{
		keys: []func(p *kvProduct){
			keysBF16r1AVX512, keysBF16r2AVX512, keysBF16r3AVX512,
			keysBF16r4AVX512, keysBF16r5AVX512, keysBF16r6AVX512,
		},
		values: []func(p *kvProduct){
			valuesBF16r1AVX512, valuesBF16r2AVX512, valuesBF16r3AVX512,
			valuesBF16r4AVX512, valuesBF16r5AVX512, valuesBF16r6AVX512,
		},
		tiles: 4, elements: 64,
	}
	kvInt8AVX512 = kvKernels{
		keys: []func(p *kvProduct){
			keysInt8r1AVX512, keysInt8r2AVX512, keysInt8r3AVX512,
			keysInt8r4AVX512, keysInt8r5AVX512, keysInt8r6AVX512,
		},
		values: []func(p *kvProduct){
			valuesInt8r1AVX512, valuesInt8r2AVX512, valuesInt8r3AVX512,
			valuesInt8r4AVX512, valuesInt8r5AVX512, valuesInt8r6AVX512,
		},
		tiles: 4, elements: 64,
	}
	kvF32AVX2 = kvKernels{
		keys: []func(p *kvProduct){
			keysF32r1AVX2, keysF32r2AVX2, keysF32r3AVX2,
		},
		values: []func(p *kvProduct){
			valuesF32r1AVX2, valuesF32r2AVX2, valuesF32r3AVX2,
		},
		tiles: 2, elements: 32,
	}
	kvBF16AVX2 = kvKernels{
		keys: []func(p *kvProduct){
			keysBF16r1AVX2, keysBF16r2AVX2, keysBF16r3AVX2,
		},
		values: []func(p *kvProduct){
			valuesBF16r1AVX2, valuesBF16r2AVX2, valuesBF16r3AVX2,
		},
		tiles: 2, elements: 32,
	}
	kvInt8AVX2 = kvKernels{
		keys: []func(p *kvProduct){
			keysInt8r1AVX2, keysInt8r2AVX2, keysInt8r3AVX2,
		},
		values: []func(p *kvProduct){
			valuesInt8r1AVX2, valuesInt8r2AVX2, valuesInt8r3AVX2,
		},
		tiles: 2, elements: 32,
	}
)

// kvKernels returns the products of a layout, nil where only plain Go can multiply.
func (l *KVLayout) kernels() (k *kvKernels, tail func(p *kvProduct)) {
	wide := level >= avx512
	switch {
	case level < avx2:
		return nil, nil
	case l.Precision == PrecisionInt8 && wide:
		return &kvInt8AVX512, tailInt8AVX2
	case l.Precision == PrecisionInt8:
		return &kvInt8AVX2, tailInt8AVX2
	case l.Precision == PrecisionBF16 && wide:
		return &kvBF16AVX512, tailBF16AVX2
	case l.Precision == PrecisionBF16:
		return &kvBF16AVX2, tailBF16AVX2
	}
	return &kvF32AVX2, tailF32AVX2
}

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
func valuesF32r1AVX2(p *kvProduct)

//go:noescape
func valuesF32r2AVX2(p *kvProduct)

//go:noescape
func valuesF32r3AVX2(p *kvProduct)

//go:noescape
func keysBF16r1AVX2(p *kvProduct)

//go:noescape
func keysBF16r2AVX2(p *kvProduct)

//go:noescape
func keysBF16r3AVX2(p *kvProduct)

//go:noescape
func valuesBF16r1AVX2(p *kvProduct)

//go:noescape
func valuesBF16r2AVX2(p *kvProduct)

//go:noescape
func valuesBF16r3AVX2(p *kvProduct)

//go:noescape
func keysInt8r1AVX2(p *kvProduct)

//go:noescape
func keysInt8r2AVX2(p *kvProduct)

//go:noescape
func keysInt8r3AVX2(p *kvProduct)

//go:noescape
func valuesInt8r1AVX2(p *kvProduct)

//go:noescape
func valuesInt8r2AVX2(p *kvProduct)

//go:noescape
func valuesInt8r3AVX2(p *kvProduct)

//go:noescape
func tailF32AVX2(p *kvProduct)

//go:noescape
func tailBF16AVX2(p *kvProduct)

//go:noescape
func tailInt8AVX2(p *kvProduct)
