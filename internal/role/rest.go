package role

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"drover/checkpoint"
	"drover/expertnode"
	"drover/internal/pull"
	"drover/model"
	"drover/moe"
)

// restTries is how often a request to the source is tried before its replica fails; a node
// begins anew with those that failed after a while.
const restTries = 4

// rest reads what a model's directory lacks. A nil one reads nothing.
type rest struct{ *pull.Rest }

// rest opens the rest of a checkpoint, nil if there is no source. It is open until the stack is
// undone.
func (s *stack) rest(o pull.Options, ck *checkpoint.Checkpoint, log *slog.Logger) (*rest, error) {
	if o.Source == "" {
		return nil, nil
	}
	if o.Tries == 0 {
		o.Tries = restTries
	}
	var retries rarely
	o.Background = expertnode.Background
	o.Retrying = func(file string, why error) {
		if n, say := retries.add(1, time.Now()); say {
			log.Warn("the source of the model does not answer, and is asked again", "requests", n,
				"file", file, "error", why)
		}
	}
	r, err := pull.OpenRest(o, ck)
	if err != nil {
		return nil, fmt.Errorf("where the rest of the model comes from: %w", err)
	}
	s.push(r.Close)
	return &rest{r}, nil
}

// memory is how much reading takes.
func (r *rest) memory() int64 {
	if r == nil {
		return 0
	}
	return r.MemoryBytes()
}

// bytes is how much was read.
func (r *rest) bytes() int64 {
	if r == nil {
		return 0
	}
	return r.Bytes()
}

// reader calls use with the bytes of a tensor that a directory lacks.
type reader func(ctx context.Context, t checkpoint.Tensor, use func([]byte) error) error

// absent is what reads a tensor, nil if nothing does.
func (r *rest) absent() reader {
	if r == nil {
		return nil
	}
	return r.Tensor
}

// restPause is how long a source that failed is not asked by those who would wait for it.
const restPause = 5 * time.Second

// hasty is the moe.Source of a coordinator's last resort over a rest. Rows wait for it and would
// go to no node meanwhile, so it gives up soon, and for a while fails at once.
type hasty struct {
	moe.Source
	ck   *checkpoint.Checkpoint
	opts model.Options
	read reader

	mu     sync.Mutex // guards the fields below
	failed time.Time
	why    error
}

// LoadContext implements expertnode.ContextSource.
func (h *hasty) LoadContext(ctx context.Context, layer, expert int) (*moe.Expert, error) {
	o := h.opts
	o.Absent = func(t checkpoint.Tensor, use func([]byte) error) error {
		h.mu.Lock()
		failed, why := h.failed, h.why
		h.mu.Unlock()
		if why != nil && time.Since(failed) < restPause {
			return why
		}
		err := h.read(ctx, t, use)
		if ctx.Err() == nil { // else it says nothing of the source
			h.mu.Lock()
			h.failed, h.why = time.Now(), err
			h.mu.Unlock()
		}
		return err
	}
	inner, err := model.OpenExperts(h.ck, o)
	if err != nil {
		return nil, err
	}
	return inner.Load(layer, expert)
}
