//go:build cuda && linux

package cuda

import (
	"math"
	"slices"

	"drover/kernel"
)

// hopperImage is the image whose kernels use instructions of Hopper alone.
const hopperImage = "sm_90a"

// wordOrder is the order in which rows have their words, of each 16: see src/integer.cu.
type wordOrder uint64

const (
	// wordsInPlace is that of all kernels but Hopper's.
	wordsInPlace wordOrder = iota
	// wordsByFour has words 0, 4, 8 and 12 first: of weights in 8 bits and bfloat16.
	wordsByFour
	// wordsByTwo has the even ones of each 8 first: of weights in 4 bits and e4m3, whose lines
	// have two words each.
	wordsByTwo
)

// hopperKernels are those of many rows that only devices of compute capability 9.0 have
// (src/mul_hopper.cu). Their bytes are those of the others of the format; of floats, those of
// tensorKernels.
var hopperKernels = map[kernel.Format]panelKernel{
	kernel.WeightsBF16: {mulHopperBF16, 128, 256, 256, math.MaxInt, wordsByFour},
	kernel.WeightsFP8:  {mulHopperFP8, 128, 256, 256, math.MaxInt, wordsByTwo},
	kernel.WeightsInt8: {mulHopperInt8, 128, 128, 256, math.MaxInt, wordsByFour},
	kernel.WeightsInt4: {mulHopperInt4, 128, 128, 256, math.MaxInt, wordsByTwo},
}

// sharedBytes is what they ask for of shared memory: src/mul_hopper.cu has the same numbers.
var sharedBytes = map[kernelID]int{mulHopperBF16: 163840, mulHopperFP8: 153600,
	mulHopperInt8: 139264, mulHopperInt4: 106496}

// hopper reports whether a kernel is one of hopperKernels.
func (k kernelID) hopper() bool { return sharedBytes[k] > 0 }

func isHopper(k panelKernel) bool { return k.kernel.hopper() }

// hopper reports whether a device has hopperKernels.
func (c *Context) hopper() bool { return c.capability == [2]int32{9, 0} }

// withoutHopper has other kernels do the work of one that cannot be launched.
func (d *Device) withoutHopper(k kernelID) {
	for f, all := range d.products {
		if slices.ContainsFunc(all, func(p panelKernel) bool { return p.kernel == k }) {
			d.without(f, k)
		}
	}
}

// addHopper adds the kernels of Hopper to those of formats whose sums they have.
func addHopper(all map[kernel.Format][]panelKernel, kind string) {
	for f, k := range hopperKernels {
		if !f.Integer() && kind != TensorKind {
			continue
		}
		few := slices.Clone(all[f])
		for i := range few {
			few[i].upTo = min(few[i].upTo, someRows)
		}
		all[f] = append(few, k)
	}
}
