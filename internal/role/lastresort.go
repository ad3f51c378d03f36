package role

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"drover/expertnode"
	"drover/internal/pull"
	"drover/internal/show"
	"drover/kernel"
	"drover/model"
	"drover/moe"
	"drover/router"
)

// LastResort says what a coordinator does for experts that no node computes.
type LastResort struct {
	// Bytes bounds the packed weights of such experts that the coordinator itself holds.
	// Zero means that it computes none.
	Bytes int64
	// Wait bounds how long a request waits for someone to compute an expert. Zero means
	// the router's default, 30 s.
	Wait time.Duration
	// Rest is where experts come from that the model's directory, a slice, lacks. Without a
	// source none do.
	Rest pull.Options
}

// open completes the router's options. Experts are read as a node would read them, from
// the packed weights where there are some, one by one when they are needed.
func (r LastResort) open(o *router.Options, m *Model, undo *stack, threads int,
	log *slog.Logger) error {
	o.FailAfter = r.Wait
	size := o.Spec.ReplicaBytes
	switch {
	case r.Bytes == 0:
		return nil
	case o.KernelClass != "" && o.KernelClass != kernel.Class(m.Mode):
		log.Warn("experts that no node holds are not computed here: nodes compute them with another "+
			"kernel class", "here", kernel.Class(m.Mode), "nodes", o.KernelClass)
		return nil
	case r.Bytes < size:
		log.Warn("experts that no node holds cannot be computed here: one is larger than "+
			"what --last-resort-bytes allows", "expert", show.Bytes(uint64(size)),
			"allowed", show.Bytes(uint64(r.Bytes)))
		return nil
	}
	opts := m.opts
	opts.Device, opts.Packed = undo.cpu(threads), nil
	source, err := model.OpenExperts(m.Checkpoint, opts)
	if err != nil {
		return fmt.Errorf("open experts for the coordinator's own use: %w", err)
	}
	if r.Rest.Source != "" {
		if source, err = r.over(source, m, opts, undo, log); err != nil {
			return err
		}
	}
	reserve := expertnode.NewReserve(source, m.Mode, opts.Device, r.Bytes)
	undo.push(reserve.Close)
	o.Local = reserve
	return nil
}

// over is a source that reads what the directory lacks.
func (r LastResort) over(source moe.Source, m *Model, opts model.Options, undo *stack,
	log *slog.Logger) (moe.Source, error) {
	how := r.Rest
	how.Tries, how.Stall = 1, restPause // the router tries again
	rest, err := undo.rest(how, m.Checkpoint, log)
	if err != nil {
		return nil, err
	}
	return &hasty{Source: source, ck: m.Checkpoint, opts: opts, read: rest.absent()}, nil
}

// rarely lets something be said now and then and counts what was not.
type rarely struct {
	mu      sync.Mutex // guards the fields below
	last    time.Time
	skipped int
}

const sayEvery = 5 * time.Second

// add counts n and tells whether it is time to say so, and of how many.
func (r *rarely) add(n int, now time.Time) (total int, say bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skipped += n
	if !r.last.IsZero() && now.Sub(r.last) < sayEvery {
		return 0, false
	}
	total, r.skipped, r.last = r.skipped, 0, now
	return total, true
}
