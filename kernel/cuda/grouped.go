//go:build cuda && linux

package cuda

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"drover/kernel"
)

// Constants of src/mul.cu, and of mul_grouped: rows of a panel, and outputs of a block of
// threads, one for each.
const mulRows, mulOutputs = 8, 64

// Rows of a matrix, on average, up to which the kernels for few of them are used: by the
// arithmetic of docs/gpu.md, not measured.
const (
	// fewRows is where reading weights is what takes time.
	fewRows = 16
	// fewestRows is that for integers without tensor cores.
	fewestRows = 4
	// someRows is where panels of 128 rows would be half empty.
	someRows = 64
)

// panelKernel multiplies panels of neighbouring rows with a matrix each. A launch has those of
// matrices of one shape and format:
//
//	mul_few_F, mul_grouped_F(y, x, panels, outputs, inputs)             F is f32, bf16 or fp8
//	mul_few_F, mul_narrow_F, mul_tensor_F, mul_wide_int8(y, codes, scales, panels, outputs,
//	  inputs)                                                           F is int8 or int4
//	mul_narrow_F, mul_tensor_F(y, halves, panels, outputs, inputs)      F is bf16 or fp8
//	mul_hopper_F(…)                                                     as mul_tensor_F
//
// A block of threads has a panel of up to rows rows, and so many outputs.
type panelKernel struct {
	kernel                 kernelID
	rows, outputs, threads int
	// upTo is the number of rows that a matrix has at most on average.
	upTo int
	// words is how rows are to be made ready.
	words wordOrder
}

// panelKernels are those of a format, the ones for fewest rows first.
var panelKernels = map[kernel.Format][]panelKernel{
	kernel.WeightsF32: {{mulFewF32, 8, 32, 32, fewRows, wordsInPlace},
		{mulGroupedF32, mulRows, mulOutputs, mulOutputs, math.MaxInt, wordsInPlace}},
	kernel.WeightsBF16: {{mulFewBF16, 8, 32, 32, fewRows, wordsInPlace},
		{mulGroupedBF16, mulRows, mulOutputs, mulOutputs, math.MaxInt, wordsInPlace}},
	kernel.WeightsFP8: {{mulFewFP8, 8, 32, 32, fewRows, wordsInPlace},
		{mulGroupedFP8, mulRows, mulOutputs, mulOutputs, math.MaxInt, wordsInPlace}},
	kernel.WeightsInt8: {{mulFewInt8, 8, 32, 32, fewestRows, wordsInPlace},
		{mulNarrowInt8, 16, 32, 32, fewRows, wordsInPlace},
		{mulTensorInt8, 64, 128, 128, someRows, wordsInPlace},
		{mulWideInt8, 128, 128, 256, math.MaxInt, wordsInPlace}},
	kernel.WeightsInt4: {{mulFewInt4, 8, 32, 32, fewestRows, wordsInPlace},
		{mulNarrowInt4, 16, 32, 32, fewRows, wordsInPlace},
		{mulTensorInt4, 64, 128, 128, math.MaxInt, wordsInPlace}},
}

// multiplied refuses a format of which there are no kernels.
func multiplied(f kernel.Format) error {
	if len(panelKernels[f]) == 0 {
		return fmt.Errorf("GPUs multiply no weights of %v: use another numeric mode", f)
	}
	return nil
}

// plainKernels are those of a single product of many rows, for formats that have one.
var plainKernels = map[kernel.Format]kernelID{kernel.WeightsF32: mulF32,
	kernel.WeightsBF16: mulBF16, kernel.WeightsFP8: mulFP8}

// plainGrid is the grid of one of them.
func plainGrid(rows, outputs int) Grid {
	return Grid{uint32((outputs + mulOutputs - 1) / mulOutputs),
		uint32((rows + mulRows - 1) / mulRows), mulOutputs}
}

// panelsOnly reports whether all products with weights of a format are of panels.
func (d *Device) panelsOnly(f kernel.Format) bool { return f.Integer() || d.splits(f) }

// tensorKernels are those of floats on devices of TensorKind: the bytes of both of a format are
// alike, and differ from all others.
var tensorKernels = map[kernel.Format][]panelKernel{
	kernel.WeightsBF16: {{mulNarrowBF16, 16, 32, 32, fewRows, wordsInPlace},
		{mulTensorBF16, 128, 128, 256, math.MaxInt, wordsInPlace}},
	kernel.WeightsFP8: {{mulNarrowFP8, 16, 32, 32, fewRows, wordsInPlace},
		{mulTensorFP8, 128, 128, 256, math.MaxInt, wordsInPlace}},
}

// tensorOnly are the kernels that only devices of TensorKind use.
var tensorOnly = []kernelID{mulNarrowBF16, mulTensorBF16, mulNarrowFP8, mulTensorFP8,
	mulHopperBF16, mulHopperFP8, attendTensorBF16}

// productsOf are the kernels of a kind of devices, by format.
func productsOf(kind string, hopper bool) map[kernel.Format][]panelKernel {
	all := maps.Clone(panelKernels)
	if kind == TensorKind {
		maps.Copy(all, tensorKernels)
	}
	if hopper {
		addHopper(all, kind)
	}
	return all
}

// panelKernelOf returns the kernel for some rows and so many matrices.
func (d *Device) panelKernelOf(f kernel.Format, rows, matrices int) *panelKernel {
	all, average := d.products[f], (rows+matrices-1)/matrices
	i := slices.IndexFunc(all, func(k panelKernel) bool { return average <= k.upTo })
	return &all[i]
}

// grid is that of a launch.
func (k *panelKernel) grid(panels, outputs int) Grid {
	return Grid{uint32(panels), uint32((outputs + k.outputs - 1) / k.outputs), uint32(k.threads)}
}

// mulPanel is the kernels' MulPanel: neighbouring rows from first on, which are multiplied with
// the matrix at an address.
type mulPanel struct {
	packed      uint64
	first, rows int32
}

// addPanels adds the panels of rows from to to, without to, and one matrix. Those of one
// matrix stand together, so that they run at about the same time.
func (k *panelKernel) addPanels(panels []mulPanel, packed uint64, from, to int) []mulPanel {
	for ; from < to; from += k.rows {
		panels = append(panels, mulPanel{packed, int32(from), int32(min(to-from, k.rows))})
	}
	return panels
}
