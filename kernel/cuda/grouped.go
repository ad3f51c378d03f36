//go:build cuda && linux

package cuda

const (
	// mulRows and mulOutputs are what a block of threads computes of a product: ROWS and
	// OUTPUTS of src/mul.cu, ROWS8 and OUTPUTS8 of src/integer.cu.
	mulRows, mulOutputs = 8, 64
	// fewOutputs is that of src/mul_few.cu, a thread for each.
	fewOutputs = 32
	// fewPanels is how many panels a matrix may have so that reading weights is what takes
	// time, by the arithmetic of docs/gpu.md; it was not measured.
	fewPanels = 2
)

// mulPanel is the kernels' MulPanel: rows neighbouring rows from first on, at most mulRows,
// which are multiplied with the matrix at an address.
//
// A launch has panels of matrices of one shape and format:
//
//	mul_grouped_F(y, x, panels, outputs, inputs)              F is f32 or bf16
//	mul_grouped_F(y, codes, scales, panels, outputs, inputs)  F is int8 or int4
//
// mul_few_F has the same arguments. It is for matrices with one panel, or few, each: then
// reading weights is all that takes time, and these kernels keep more of it under way.
type mulPanel struct {
	packed      uint64
	first, rows int32
}

// addPanels adds the panels of rows from to to, without to, and one matrix. Those of one
// matrix stand together, so that they run at about the same time.
func addPanels(panels []mulPanel, packed uint64, from, to int) []mulPanel {
	for ; from < to; from += mulRows {
		panels = append(panels, mulPanel{packed, int32(from), int32(min(to-from, mulRows))})
	}
	return panels
}

// groupedGrid is the grid of a launch.
func groupedGrid(panels, outputs int) Grid {
	return Grid{uint32(panels), uint32((outputs + mulOutputs - 1) / mulOutputs), mulOutputs}
}

// fewGrid is the grid of a launch of mul_few_F.
func fewGrid(panels, outputs int) Grid {
	return Grid{uint32(panels), uint32((outputs + fewOutputs - 1) / fewOutputs), fewOutputs}
}
