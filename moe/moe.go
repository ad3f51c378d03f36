// Package moe holds what a mixture-of-experts layer is made of: the gate that
// chooses experts, the expert itself, the batch of rows that goes out to the
// experts, and the fixed-order sum of what comes back.
//
// Two rules hold everywhere and the rest of Drover relies on them:
//
//   - R1, an expert call is a pure function of (checkpoint, numeric mode, layer,
//     expert, rows): each output row depends on its own input row alone, never on
//     which rows came along, where it was computed or how often.
//   - R2, the routed outputs of one token are added in ascending order of expert,
//     in float32, in one place (Plan.Combine).
//
// So an expert call can be retried, hedged, moved and repeated without a trace in
// the answer.
package moe

import (
	"context"

	"drover/tensor"
)

// Batch is the rows of one MoE layer on their way to the experts, grouped by
// expert. A row that goes to several experts stands in the batch once for each.
type Batch struct {
	// Layer is the index of the model's layer.
	Layer int
	// Experts are the experts that have rows, distinct and ascending.
	Experts []int32
	// Counts holds the number of rows of each of Experts, at least 1.
	Counts []int32
	// X holds the rows, expert by expert: (sum of Counts, hidden). They are already
	// scaled by the gate's weight where the model scales an expert's input, and
	// rounded to the numeric mode's row type, so that sending them loses nothing.
	X tensor.Rows
	// Y takes the experts' outputs, in the same order and shape as X, rounded to
	// the row type by whoever computed them.
	Y tensor.Rows
}

// Experts computes the routed part of MoE layers, on this machine or elsewhere.
type Experts interface {
	// Forward fills b.Y. It returns only when every row is complete, or with an
	// error and b.Y undefined. It calls meanwhile, if not nil, exactly once and on
	// the caller's goroutine, as soon as the rows are on their way: the caller
	// computes its shared expert there. The batch is the caller's again when
	// Forward returns. One Experts is used by one goroutine at a time.
	Forward(ctx context.Context, b *Batch, meanwhile func()) error
}

// Spec describes a model's routed experts.
type Spec struct {
	// Layers lists the indices of the MoE layers, ascending.
	Layers []int
	// Experts is the number of routed experts in each MoE layer.
	Experts int
	// TopK is the number of experts that a token visits in each layer.
	TopK int
	// Hidden is the width of a row, Width that of an expert's inside.
	Hidden, Width int
	// ReplicaBytes is the size of one expert's packed weights.
	ReplicaBytes int64
}

// Source reads experts' weights from a checkpoint, one at a time.
type Source interface {
	// Spec describes the experts.
	Spec() Spec
	// Load reads one expert of one layer. It is safe for concurrent use.
	Load(layer, expert int) (*Expert, error)
}
