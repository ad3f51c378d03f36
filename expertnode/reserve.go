package expertnode

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"drover/kernel"
	"drover/moe"
)

// Reserve computes any expert of a model on this machine, within a bound of memory: it
// loads the experts that it is asked for and forgets those that were used longest ago.
// It gives the same bytes as a Host. It is safe for concurrent use; a call waits for
// another's loading only if both need the same expert, or if there is no room else. A call
// that ends early leaves the expert that it loads to the next one: loading goes on.
type Reserve struct {
	source   moe.Source
	mode     kernel.Mode
	maxBytes int64

	ctx     context.Context // of loading; ends with Close
	cancel  context.CancelFunc
	loading chan struct{} // bounds the experts that are loaded at the same time
	loaders sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	held    map[Replica]*reserved
	bytes   int64         // of held
	uses    uint64        // numbers the uses, to know the oldest
	freed   chan struct{} // closed and replaced when a call ends its use
	dropped int64         // bytes forgotten and perhaps not yet given back
	stats   ReserveStats

	computing sync.Mutex // guards the field below; the device serves one at a time
	runner    *moe.Runner
}

// reserved is one expert of a Reserve.
type reserved struct {
	users   int // calls that need it, and its loading; it is not forgotten meanwhile
	lastUse uint64
	loaded  chan struct{} // closed when one of the fields below is set, for good
	expert  *moe.Expert
	err     error
}

// ReserveStats says what a Reserve holds and has done.
type ReserveStats struct {
	// Loads and Forgotten count experts.
	Loads, Forgotten uint64
	// HeldBytes is the size of the weights held or being loaded.
	HeldBytes int64
}

// NewReserve returns a Reserve of so many bytes of packed weights that holds nothing yet.
// The source's experts must be in the memory of the device, which is the Reserve's alone.
func NewReserve(source moe.Source, mode kernel.Mode, d kernel.Device, maxBytes int64) *Reserve {
	r := &Reserve{source: source, mode: mode, maxBytes: maxBytes,
		loading: make(chan struct{}, maxLoading), held: make(map[Replica]*reserved),
		freed: make(chan struct{}), runner: moe.NewRunner(d)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// maxLoading bounds the experts that are loaded at the same time: each call loads one, and
// what calls have left goes on beside that.
const maxLoading = 8

// Close ends loading and returns when nothing is loaded any more. Calls that need an expert
// which is not held get an error.
func (r *Reserve) Close() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.loaders.Wait()
}

// Stats says what the Reserve holds and has done.
func (r *Reserve) Stats() ReserveStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.HeldBytes = r.bytes
	return s
}

var errNoRoom = errors.New("an expert is larger than the memory for experts on this machine")

// ComputeBatch sets b.Y to the outputs of the experts of b for b.X, rounded to the mode's
// row type, and errs[i] to why the i-th expert could not be computed or to nil; the rows
// of an expert with an error are undefined. It loads what is not held, as many at a time
// as fit, and stops when ctx ends.
func (r *Reserve) ComputeBatch(ctx context.Context, b *moe.Batch, errs []error) {
	row := 0
	for first := 0; first < len(b.Experts); {
		group, mine, err := r.acquire(ctx, b, first)
		if err != nil {
			for i := first; i < len(b.Experts); i++ {
				errs[i] = fmt.Errorf("layer %d expert %d: %w", b.Layer, b.Experts[i], err)
			}
			return
		}
		last, rows := first+len(group), 0
		for _, n := range b.Counts[first:last] {
			rows += int(n)
		}
		for i, e := range group {
			errs[first+i] = r.load(ctx, e, mine[i], Replica{b.Layer, int(b.Experts[first+i])})
		}
		part := moe.Batch{Layer: b.Layer, Experts: b.Experts[first:last],
			Counts: b.Counts[first:last], X: b.X.Slice(row, row+rows), Y: b.Y.Slice(row, row+rows)}
		r.compute(&part, group, errs[first:last])
		r.release(group)
		first, row = last, row+rows
	}
}

// acquire marks as many experts of a batch from first on as used as there is room for, at
// least one, and tells which of them the caller has to load.
func (r *Reserve) acquire(ctx context.Context, b *moe.Batch, first int) (
	group []*reserved, mine []bool, err error) {
	for {
		r.mu.Lock()
		for _, expert := range b.Experts[first:] {
			e, fresh := r.take(Replica{b.Layer, int(expert)})
			if e == nil {
				break
			}
			group, mine = append(group, e), append(mine, fresh)
		}
		freed := r.freed
		r.mu.Unlock()
		if len(group) > 0 {
			return group, mine, nil
		}
		if r.source.Spec().ReplicaBytes > r.maxBytes {
			return nil, nil, errNoRoom
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// take marks an expert as used, and makes room for it if it is not there; it returns nil
// if there is none. The caller holds mu.
func (r *Reserve) take(key Replica) (e *reserved, fresh bool) {
	if e = r.held[key]; e == nil {
		size := r.source.Spec().ReplicaBytes
		for r.bytes+size > r.maxBytes {
			if !r.forgetOldest() {
				return nil, false
			}
		}
		e, fresh = &reserved{loaded: make(chan struct{})}, true
		r.held[key] = e
		r.bytes += size
	}
	r.uses++
	e.users++
	e.lastUse = r.uses
	return e, fresh
}

// forgetOldest forgets the expert that nobody uses and that was used longest ago, if there
// is one. The caller holds mu.
func (r *Reserve) forgetOldest() bool {
	var oldest Replica
	found := false
	for key, e := range r.held {
		if e.users == 0 && (!found || e.lastUse < r.held[oldest].lastUse) {
			oldest, found = key, true
		}
	}
	if found {
		r.forget(oldest)
		r.stats.Forgotten++
	}
	return found
}

// forget removes an expert. The caller holds mu.
func (r *Reserve) forget(key Replica) {
	delete(r.held, key)
	size := r.source.Spec().ReplicaBytes
	r.bytes -= size
	r.dropped += size
}

// load returns when an expert is loaded, or ctx ends. It starts the loading if that is the
// caller's to do.
func (r *Reserve) load(ctx context.Context, e *reserved, mine bool, key Replica) error {
	if mine {
		r.start(ctx, e, key)
	}
	select {
	case <-e.loaded:
		return e.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// start starts to load an expert, which goes on when ctx ends.
func (r *Reserve) start(ctx context.Context, e *reserved, key Replica) {
	err := context.Cause(ctx)
	if err == nil {
		select {
		case r.loading <- struct{}{}:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.finish(e, key, nil, err)
		return
	}
	if err := r.ctx.Err(); err != nil {
		<-r.loading
		r.finish(e, key, nil, err)
		return
	}
	e.users++
	r.loaders.Go(func() {
		r.collect()
		expert, err := r.read(key)
		<-r.loading
		r.mu.Lock()
		r.finish(e, key, expert, err)
		r.mu.Unlock()
		r.release([]*reserved{e})
	})
}

// read reads an expert. A panic is a bug; it costs those who need the expert an error.
func (r *Reserve) read(key Replica) (e *moe.Expert, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("loading panicked: %v", v)
		}
	}()
	return loadOne(r.ctx, r.source, key)
}

// finish ends the loading of an expert. The caller holds mu.
func (r *Reserve) finish(e *reserved, key Replica, expert *moe.Expert, err error) {
	r.stats.Loads++
	e.expert = expert
	if err != nil {
		e.err = fmt.Errorf("load layer %d expert %d: %w", key.Layer, key.Expert, err)
		r.forget(key) // the next call tries again
	}
	close(e.loaded)
}

// collect gives memory back that was forgotten. The collector does not see how much
// memory is mapped, so without this it would wait for garbage of Go's own.
func (r *Reserve) collect() {
	r.mu.Lock()
	due := r.dropped > r.maxBytes/4
	if due {
		r.dropped = 0
	}
	r.mu.Unlock()
	if due {
		runtime.GC()
	}
}

// compute computes a part of a batch; experts with an error are left out.
func (r *Reserve) compute(b *moe.Batch, group []*reserved, errs []error) {
	experts := make([]*moe.Expert, len(group))
	for i, e := range group {
		if errs[i] == nil {
			experts[i] = e.expert
		}
	}
	if !slices.Contains(errs, nil) {
		return
	}
	r.computing.Lock()
	defer r.computing.Unlock()
	if err := r.runner.Forward(b.Y, b.X, experts, b.Counts); err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("layer %d: %w", b.Layer, err)
		}
		return
	}
	moe.RoundRows(r.mode, b.Y)
}

// release ends the use of experts.
func (r *Reserve) release(group []*reserved) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range group {
		e.users--
	}
	close(r.freed)
	r.freed = make(chan struct{})
}
