// Package kernel does arithmetic on rows: matrix products over packed weights,
// attention over blocks of keys and values, norms, rotary embedding, activations.
//
// Two rules hold in every kernel:
//
//   - K1, each output depends on its own row (or query) and the weights alone, and
//     is summed in an order fixed by their shapes: in a matrix product one chain of
//     float32 fused multiply-adds over the inputs, ascending, or, of integers, over
//     the spans of a row that share a scale, each a chain over the groups of weights
//     that do. So a row gives the same bytes alone, in a batch, in prefill and in
//     decode.
//   - K2, every instruction set gives the bytes of the plain Go version, which
//     emulates the fused multiply-add exactly. So all of them are one kernel class.
//
// Hot loops are free functions over slices; none of them allocates.
package kernel
