//go:build cuda && linux

package cuda

// kernelID numbers the kernels that a Device launches.
type kernelID int

const (
	mulF32 kernelID = iota
	mulBF16
	mulFP8
	mulFewF32
	mulFewBF16
	mulFewFP8
	mulFewInt8
	mulFewInt4
	mulGroupedF32
	mulGroupedBF16
	mulGroupedFP8
	mulNarrowBF16
	mulNarrowFP8
	mulNarrowInt8
	mulNarrowInt4
	mulTensorBF16
	mulTensorFP8
	mulTensorInt8
	mulTensorInt4
	mulWideInt8
	mulHopperBF16
	mulHopperFP8
	mulHopperInt8
	mulHopperInt4
	quantiseRows
	splitRows
	normSums
	normFactors
	normApply
	swigluRows
	addRows
	scaleRows
	rotateRows
	embedRows
	gatherRows
	scatterRows
	attendStoreF32
	attendStoreBF16
	attendStoreInt8
	attendF32
	attendBF16
	attendInt8
	attendTensorBF16
	attendMergeSpans
	kernelCount
)

var kernelNames = [kernelCount]string{
	mulF32:         "mul_f32",
	mulBF16:        "mul_bf16",
	mulFP8:         "mul_fp8",
	mulFewF32:      "mul_few_f32",
	mulFewBF16:     "mul_few_bf16",
	mulFewFP8:      "mul_few_fp8",
	mulFewInt8:     "mul_few_int8",
	mulFewInt4:     "mul_few_int4",
	mulGroupedF32:  "mul_grouped_f32",
	mulGroupedBF16: "mul_grouped_bf16",
	mulGroupedFP8:  "mul_grouped_fp8",
	mulNarrowBF16:  "mul_narrow_bf16",
	mulNarrowFP8:   "mul_narrow_fp8",
	mulNarrowInt8:  "mul_narrow_int8",
	mulNarrowInt4:  "mul_narrow_int4",
	mulTensorBF16:  "mul_tensor_bf16",
	mulTensorFP8:   "mul_tensor_fp8",
	mulTensorInt8:  "mul_tensor_int8",
	mulTensorInt4:  "mul_tensor_int4",
	mulWideInt8:    "mul_wide_int8",
	mulHopperBF16:  "mul_hopper_bf16",
	mulHopperFP8:   "mul_hopper_fp8",
	mulHopperInt8:  "mul_hopper_int8",
	mulHopperInt4:  "mul_hopper_int4",
	quantiseRows:   "quantise_rows",
	splitRows:      "split_rows",
	normSums:       "norm_sums",
	normFactors:    "norm_factors",
	normApply:      "norm_apply",
	swigluRows:     "swiglu_rows",
	addRows:        "add_rows",
	scaleRows:      "scale_rows",
	rotateRows:     "rotate_rows",
	embedRows:      "embed_rows",
	gatherRows:     "gather_rows",
	scatterRows:    "scatter_rows",

	attendStoreF32:   "attend_store_f32",
	attendStoreBF16:  "attend_store_bf16",
	attendStoreInt8:  "attend_store_int8",
	attendF32:        "attend_f32",
	attendBF16:       "attend_bf16",
	attendInt8:       "attend_int8",
	attendTensorBF16: "attend_tensor_bf16",
	attendMergeSpans: "attend_merge",
}

// elementThreads is the number of threads in a block where each has an element.
const elementThreads = 128

// elements launches a kernel whose threads have one of n elements each.
func (d *Device) elements(k kernelID, n int, arguments ...uint64) {
	d.launch(k, elementGrid(n), arguments...)
}

// elementGrid is the grid of such a kernel.
func elementGrid(n int) Grid {
	return Grid{uint32((n + elementThreads - 1) / elementThreads), 1, elementThreads}
}

// scratchID numbers the uses of scratch memory.
type scratchID int

const (
	scratchCodes scratchID = iota
	scratchHalves
	scratchScales
	scratchSums
	scratchFactors
	scratchInner
	scratchActivations
	scratchStates
	scratchCount
)

// room returns scratch memory of at least size bytes, which holds anything. The kernels
// that used it before are queued before.
func (d *Device) room(id scratchID, size int) uint64 {
	if d.Err() != nil {
		return 0
	}
	m := d.scratch[id]
	if m != nil && m.size >= size {
		return m.At(0)
	}
	if m != nil {
		d.queue.retired = append(d.queue.retired, m)
		d.scratch[id] = nil
	}
	m, err := d.memory.take(size)
	if err != nil {
		d.fail(err)
		return 0
	}
	d.scratch[id] = m
	return m.At(0)
}

// flag is a kernel's argument for a condition.
func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
