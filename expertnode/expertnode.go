// Package expertnode holds experts on this machine and computes them: in process
// as moe.Experts, or for others as the gRPC ExpertService.
//
// A Host keeps the weights and knows nothing of streams; a Server keeps streams and
// a queue of frames, and asks the Host for each expert's rows. Three rules hold:
//
//   - N1, an expert is computed if it is held, and refused at once if not, whatever the
//     frame's placement revision says: weights depend on checkpoint, mode, layer and expert
//     alone, and a placement is in force only when its nodes have loaded it.
//   - N2, every Dispatch is answered by one Combine, also if it was cancelled,
//     late, corrupt or refused; only a breach of the protocol, or a message so corrupt
//     that it is no Dispatch, ends a stream.
//   - N3, whatever a client does, a node's memory is bounded: by the credit and the
//     frames of each stream, the number of streams, and one queue for all of them.
package expertnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

// ErrNotHeld is wrapped by errors about an expert that is not held here.
var ErrNotHeld = errors.New("expert is not held here")

// Replica names one expert of one layer.
type Replica struct {
	Layer, Expert int
}

// HostOptions tunes a Host. The zero value is ready for use.
type HostOptions struct {
	// CapacityBytes bounds the packed weights held. Assign refuses what would not
	// fit. Zero means no bound, and then too large a model exhausts the machine.
	CapacityBytes int64
	// LoadParallel is the number of replicas loaded at a time. Zero means 2; more
	// helps on fast disks and disturbs running computation.
	LoadParallel int
	// Device computes, and the source's experts are in its memory. Nil means the CPU,
	// on the caller's thread alone.
	Device kernel.Device
	// Progress, if not nil, is called after each replica that Assign loaded, with
	// how many are done of how many. Calls do not overlap.
	Progress func(done, total int)
}

// Host holds experts in memory and computes them. Computing never waits for loading:
// it sees an immutable set that is replaced whole.
type Host struct {
	source moe.Source
	mode   kernel.Mode
	opts   HostOptions

	held    atomic.Pointer[heldSet]
	editing chan struct{} // holds a token while Assign or Drop edits held

	computing sync.Mutex // guards the fields below; the device serves one at a time
	runner    *moe.Runner
	experts   []*moe.Expert // of the batch that is computed
	errs      []error       // of Forward
}

// heldSet is what a Host holds; it is never edited.
type heldSet struct {
	experts map[Replica]*moe.Expert
	bytes   int64
}

var _ moe.Experts = (*Host)(nil)

// NewHost returns a Host that holds nothing yet.
func NewHost(source moe.Source, mode kernel.Mode, opts HostOptions) *Host {
	if opts.LoadParallel <= 0 {
		opts.LoadParallel = 2
	}
	if opts.Device == nil {
		opts.Device = kernel.NewCPU(nil)
	}
	h := &Host{source: source, mode: mode, opts: opts, editing: make(chan struct{}, 1),
		runner: moe.NewRunner(opts.Device)}
	h.held.Store(&heldSet{})
	return h
}

// Spec describes the model's experts.
func (h *Host) Spec() moe.Spec { return h.source.Spec() }

// Holds tells whether the expert is held.
func (h *Host) Holds(layer, expert int) bool {
	return h.held.Load().experts[Replica{layer, expert}] != nil
}

// Bytes returns the size of the packed weights held.
func (h *Host) Bytes() int64 { return h.held.Load().bytes }

// Count returns the number of replicas held.
func (h *Host) Count() int { return len(h.held.Load().experts) }

// Held lists the replicas held, ascending by layer and expert.
func (h *Host) Held() []Replica {
	var out []Replica
	for r := range h.held.Load().experts {
		out = append(out, r)
	}
	slices.SortFunc(out, compareReplicas)
	return out
}

func compareReplicas(a, b Replica) int {
	if a.Layer != b.Layer {
		return a.Layer - b.Layer
	}
	return a.Expert - b.Expert
}

// Compute sets y to the expert's outputs for the rows x, rounded to the mode's row
// type. It is safe for concurrent use.
func (h *Host) Compute(layer, expert int, y, x tensor.Rows) error {
	b := moe.Batch{Layer: layer, Experts: []int32{int32(expert)}, Counts: []int32{int32(x.N)},
		X: x, Y: y}
	errs := make([]error, 1)
	h.ComputeBatch(&b, errs)
	return errs[0]
}

// ComputeBatch sets b.Y to the outputs of the experts of b for b.X, rounded to the
// mode's row type, and errs[i] to why the i-th expert could not be computed or to nil;
// the rows of an expert with an error are undefined. All experts are computed
// together. It is safe for concurrent use.
func (h *Host) ComputeBatch(b *moe.Batch, errs []error) {
	h.computing.Lock()
	defer h.computing.Unlock()
	h.compute(b, errs)
}

// compute is ComputeBatch for whoever holds the lock.
func (h *Host) compute(b *moe.Batch, errs []error) {
	h.find(b, errs)
	err := h.runner.Forward(b.Y, b.X, h.experts, b.Counts)
	clear(h.experts) // experts that are dropped must not stay for it
	h.finish(b, errs, err)
}

// find sets h.experts to those of b, nil for one that is not held, which has an error.
func (h *Host) find(b *moe.Batch, errs []error) {
	held := h.held.Load()
	h.experts = h.experts[:0]
	for i, expert := range b.Experts {
		e := held.experts[Replica{b.Layer, int(expert)}]
		h.experts, errs[i] = append(h.experts, e), nil
		if e == nil {
			errs[i] = fmt.Errorf("layer %d expert %d: %w", b.Layer, expert, ErrNotHeld)
		}
	}
}

// finish rounds what was computed, or says why it was not.
func (h *Host) finish(b *moe.Batch, errs []error, err error) {
	if err != nil {
		for i := range b.Experts {
			errs[i] = fmt.Errorf("layer %d: %w", b.Layer, err)
		}
		return
	}
	moe.RoundRows(h.mode, b.Y)
}

// Ahead is how many batches may be under way from Begin to End: none on a CPU.
func (h *Host) Ahead() int { return h.opts.Device.Ahead() }

// Begun is a batch under way.
type Begun struct {
	pass *moe.Pass
	err  error // why there is none
}

// Wait waits until End will not.
func (b Begun) Wait() {
	if b.pass != nil {
		b.pass.Wait()
	}
}

// Begin begins a ComputeBatch, which End ends: b.Y and the errors are undefined until then.
// Batches end in the order in which they began. It is safe for concurrent use.
func (h *Host) Begin(b *moe.Batch, errs []error) Begun {
	h.computing.Lock()
	defer h.computing.Unlock()
	h.find(b, errs)
	pass, err := h.runner.Begin(b.X, h.experts, b.Counts)
	clear(h.experts) // experts that are dropped must not stay for it
	return Begun{pass, err}
}

// End ends what Begin began with the same batch and errors.
func (h *Host) End(b *moe.Batch, errs []error, begun Begun) {
	err := begun.err
	if begun.pass != nil {
		h.computing.Lock()
		defer h.computing.Unlock()
		err = h.runner.End(begun.pass, b.Y)
	}
	h.finish(b, errs, err)
}

// Forward computes a batch in process; every one of its experts must be held.
func (h *Host) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	if meanwhile != nil {
		meanwhile()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	h.computing.Lock()
	defer h.computing.Unlock()
	h.errs = slices.Grow(h.errs[:0], len(b.Experts))[:len(b.Experts)]
	h.compute(b, h.errs)
	for _, err := range h.errs {
		if err != nil {
			return err
		}
	}
	return nil
}
