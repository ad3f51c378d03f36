// Package kernel does arithmetic on rows: matrix products over packed weights,
// attention over blocks of keys and values, norms, rotary embedding, activations.
//
// Two rules hold in every kernel:
//
//   - K1, each output depends on its own row (or query) and the weights alone, and
//     is summed in an order fixed by their shapes: in a matrix product one chain of
//     float32 fused multiply-adds over the inputs, ascending. So a row gives the
//     same bytes alone, in a batch, in prefill and in decode.
//   - K2, every instruction set gives the bytes of the plain Go version, which
//     emulates the fused multiply-add exactly. So all of them are one kernel class.
//
// Hot loops are free functions over slices; none of them allocates.
package kernel

import (
	"fmt"

	"drover/tensor"
)

// Mode is a numeric mode: what weights, rows and caches are rounded to. The bytes
// of an answer depend on it.
type Mode uint8

const (
	// Exact keeps activations, rows on the wire and the KV cache in float32. It is
	// for verification.
	Exact Mode = iota + 1
	// BF16 rounds rows on the wire and the KV cache to bfloat16; sums stay float32.
	BF16
)

// ParseMode reads a mode by its name.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "exact":
		return Exact, nil
	case "bf16":
		return BF16, nil
	}
	return 0, fmt.Errorf("numeric mode %q is unknown: use exact or bf16", s)
}

// String returns the mode's name.
func (m Mode) String() string {
	switch m {
	case Exact:
		return "exact"
	case BF16:
		return "bf16"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// RowType is the element type to which rows are rounded before they leave for the
// experts and before they come back.
func (m Mode) RowType() tensor.DType {
	if m == BF16 {
		return tensor.BF16
	}
	return tensor.F32
}

// Class names the kernel class of a mode: two machines of one class give the same
// bytes. Both modes of today compute in float32 fused multiply-adds (K2), on
// every instruction set, so the class does not name one.
func Class(m Mode) string {
	return "fma32-" + m.String()
}
