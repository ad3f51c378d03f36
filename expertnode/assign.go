package expertnode

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"drover/moe"
)

// Assign loads those of the wanted replicas that are not held. It returns when all
// are ready to compute, or with the first error; what was loaded until then stays.
func (h *Host) Assign(ctx context.Context, want []Replica) error {
	if err := h.lock(ctx); err != nil {
		return err
	}
	defer h.unlock()
	missing, err := h.missing(want)
	if err != nil {
		return err
	}
	return h.load(ctx, missing)
}

// LoadAll loads every expert of the model.
func (h *Host) LoadAll(ctx context.Context) error {
	spec := h.source.Spec()
	want := make([]Replica, 0, len(spec.Layers)*spec.Experts)
	for _, layer := range spec.Layers {
		for expert := range spec.Experts {
			want = append(want, Replica{layer, expert})
		}
	}
	return h.Assign(ctx, want)
}

// Drop forgets replicas; those that are not held are ignored. A computation that
// runs keeps its weights until it ends.
func (h *Host) Drop(replicas []Replica) {
	_ = h.lock(context.Background()) // never ends, so the lock is always taken
	defer h.unlock()
	old := h.held.Load()
	next := &heldSet{experts: maps.Clone(old.experts), bytes: old.bytes}
	for _, r := range replicas {
		if e := next.experts[r]; e != nil {
			next.bytes -= e.Bytes()
			delete(next.experts, r)
		}
	}
	h.held.Store(next)
}

// lock makes the caller the only one to edit held. It is a channel since loading
// takes long and a context must end the wait.
func (h *Host) lock(ctx context.Context) error {
	select {
	case h.editing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *Host) unlock() { <-h.editing }

// missing returns the wanted replicas that are not held, after checking that they
// exist and fit.
func (h *Host) missing(want []Replica) ([]Replica, error) {
	spec, held := h.source.Spec(), h.held.Load()
	var out []Replica
	for _, r := range want {
		if _, ok := slices.BinarySearch(spec.Layers, r.Layer); !ok {
			return nil, fmt.Errorf("assign layer %d expert %d: the model has no MoE layer %d",
				r.Layer, r.Expert, r.Layer)
		}
		if r.Expert < 0 || r.Expert >= spec.Experts {
			return nil, fmt.Errorf("assign layer %d expert %d: the layer has %d experts",
				r.Layer, r.Expert, spec.Experts)
		}
		if held.experts[r] == nil {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, compareReplicas)
	out = slices.Compact(out)
	total := held.bytes + int64(len(out))*spec.ReplicaBytes
	if h.opts.CapacityBytes > 0 && total > h.opts.CapacityBytes {
		return nil, fmt.Errorf("assign %d replicas: they need %d bytes, the capacity is %d",
			len(out), total, h.opts.CapacityBytes)
	}
	return out, nil
}

// ContextSource is a moe.Source whose loading ends early, with an error, when its context
// does: loading from other nodes takes long.
type ContextSource interface {
	moe.Source
	LoadContext(ctx context.Context, layer, expert int) (*moe.Expert, error)
}

// loadOne loads one replica.
func loadOne(ctx context.Context, source moe.Source, r Replica) (*moe.Expert, error) {
	if s, ok := source.(ContextSource); ok {
		return s.LoadContext(ctx, r.Layer, r.Expert)
	}
	return source.Load(r.Layer, r.Expert)
}

// loaded is what one loader hands over.
type loaded struct {
	replica Replica
	expert  *moe.Expert
	err     error
}

// publishEvery is the number of loaded replicas after which they become visible:
// the set is copied each time, so not after each one.
const publishEvery = 64

// load loads the replicas with a few goroutines, which yield to frames, and publishes
// them.
func (h *Host) load(ctx context.Context, missing []Replica) error {
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo, done := make(chan Replica), make(chan loaded)
	var loaders sync.WaitGroup
	for range min(h.opts.LoadParallel, len(missing)) {
		loaders.Go(func() {
			Background()
			for r := range todo {
				e, err := loadOne(ctx, h.source, r)
				done <- loaded{r, e, err}
			}
		})
	}
	go func() {
		defer close(done)
		defer loaders.Wait()
		defer close(todo)
		for _, r := range missing {
			select {
			case todo <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	fresh := make(map[Replica]*moe.Expert)
	count := 0
	for l := range done {
		if l.err != nil {
			r := l.replica
			cancel(fmt.Errorf("load layer %d expert %d: %w", r.Layer, r.Expert, l.err))
			continue
		}
		fresh[l.replica] = l.expert
		count++
		if h.opts.Progress != nil {
			h.opts.Progress(count, len(missing))
		}
		if len(fresh) >= publishEvery {
			h.publish(fresh)
			clear(fresh)
		}
	}
	h.publish(fresh)
	if count < len(missing) {
		return context.Cause(ctx)
	}
	return nil
}

// publish adds experts to the held set. Only the holder of the lock calls it.
func (h *Host) publish(fresh map[Replica]*moe.Expert) {
	old := h.held.Load()
	next := &heldSet{experts: make(map[Replica]*moe.Expert, len(old.experts)+len(fresh)),
		bytes: old.bytes}
	maps.Copy(next.experts, old.experts)
	for r, e := range fresh {
		next.experts[r] = e
		next.bytes += e.Bytes()
	}
	h.held.Store(next)
}
