package role

import (
	"context"
	"errors"
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

const (
	// restPause is how long a source that failed is not asked by those who would wait for it.
	restPause = 5 * time.Second
	// restSlow is how long an expert may take without a pause after it, which is as long again.
	restSlow = time.Second
)

// errSlow is why an expert is not pulled just now.
var errSlow = errors.New("the source of the model is slow, and is left alone for as long as the " +
	"last expert took")

// hasty is the moe.Source of a coordinator's last resort over a rest. Rows wait for it, all that
// need one of many experts, and go to no node meanwhile. So it gives up soon, pauses after each
// expert that took long, and fails at once in a pause: who asks looks for nodes then.
type hasty struct {
	moe.Source
	ck   *checkpoint.Checkpoint
	opts model.Options
	read reader

	mu    sync.Mutex // guards the fields below
	until time.Time  // the pause's end
	why   error
}

// LoadContext implements expertnode.ContextSource.
func (h *hasty) LoadContext(ctx context.Context, layer, expert int) (*moe.Expert, error) {
	var began time.Time // zero until something is read
	o := h.opts
	o.Absent = func(t checkpoint.Tensor, use func([]byte) error) error {
		if began.IsZero() {
			if err := h.paused(); err != nil {
				return err
			}
			began = time.Now()
		}
		err := h.read(ctx, t, use)
		if err != nil && ctx.Err() == nil { // else it says nothing of the source
			h.pause(restPause, err)
		}
		return err
	}
	inner, err := model.OpenExperts(h.ck, o)
	if err != nil {
		return nil, err
	}
	e, err := inner.Load(layer, expert)
	if took := time.Since(began); err == nil && !began.IsZero() && took > restSlow {
		h.pause(took, errSlow)
	}
	return e, err
}

func (h *hasty) pause(d time.Duration, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until, h.why = time.Now().Add(d), why
}

// paused says why nothing is read now, nil if it is.
func (h *hasty) paused() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.why
	}
	return nil
}
