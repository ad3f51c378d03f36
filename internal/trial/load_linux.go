package trial

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drover/internal/load"
	droverv1 "drover/proto/drover/v1"
)

// asking is a load that lasts as long as a trial: clients that each ask one question after the
// other. Windows are cut out of it afterwards, so that none begins with an idle cluster.
type asking struct {
	questions []load.Question
	began     time.Time
	stop      func()

	mu       sync.Mutex // guards the fields below
	answers  *load.Answers
	gaps     gaps
	asked    int
	failed   int
	failures []string // the first ones
}

// gap is the time between two messages of a stream, the first token's wait left out; both are
// since the load began.
type gap struct{ from, to time.Duration }

// gaps are kept in pieces: to copy them all into a larger slice holds up what else this process
// does, for tens of milliseconds or more, and that would be measured as everybody's pause.
type gaps struct {
	pieces [][]gap
	n      int
}

const (
	// maxGaps bounds what is kept: hours at 2,000 tokens a second.
	maxGaps   = 1 << 24
	pieceGaps = 1 << 14
)

func (g *gaps) add(one gap) {
	if g.n >= maxGaps {
		return
	}
	if g.n%pieceGaps == 0 {
		g.pieces = append(g.pieces, make([]gap, 0, pieceGaps))
	}
	last := len(g.pieces) - 1
	g.pieces[last] = append(g.pieces[last], one)
	g.n++
}

// ask asks until stop is called.
func ask(ctx context.Context, c *cluster) (*asking, error) {
	questions, err := load.Mix()
	if err != nil {
		return nil, err
	}
	a := &asking{questions: questions, began: time.Now(), answers: load.NewAnswers(len(questions))}
	client := droverv1.NewCoordinatorServiceClient(c.conn)
	ctx, cancel := context.WithCancel(ctx)
	var next atomic.Int64
	var wg sync.WaitGroup
	a.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	for range c.o.Clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int((next.Add(1) - 1) % int64(len(questions)))
				asked, cancel := context.WithTimeout(ctx, time.Minute)
				r := load.Ask(asked, client, questions[i].Request, time.Now())
				cancel()
				r.Question = i
				a.take(ctx, &r)
			}
		})
	}
	return a, nil
}

func (a *asking) take(ctx context.Context, r *load.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < len(r.Deltas); i++ {
		a.gaps.add(gap{r.Deltas[i-1].At.Sub(a.began), r.Deltas[i].At.Sub(a.began)})
	}
	switch {
	case ctx.Err() != nil: // the trial is over
	case r.Err != nil:
		a.asked++
		if a.failed++; len(a.failures) < 20 {
			a.failures = append(a.failures, fmt.Sprintf("%s after %d tokens: %v",
				a.questions[r.Question].ID, len(r.Tokens), r.Err))
		}
	default:
		a.asked++
		a.answers.Add(r)
	}
}

// warm waits until every question has an answer.
func (a *asking) warm(ctx context.Context) error {
	return await(ctx, 2*time.Minute, "every question has an answer", func() (bool, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.failed > 0 {
			return true, nil // it is told in the report
		}
		return a.answers.Known() == len(a.questions), nil
	})
}

// ITL is the gaps between tokens in a window, in milliseconds.
type ITL struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// window is a part of the load's time.
type window struct{ from, to time.Time }

// itl is of the gaps that ended in the windows. It must not be called before stop.
func (a *asking) itl(in ...window) ITL {
	var all []time.Duration
	for _, w := range in {
		from, to := w.from.Sub(a.began), w.to.Sub(a.began)
		for _, piece := range a.gaps.pieces {
			for _, g := range piece {
				if from <= g.to && g.to < to {
					all = append(all, g.to-g.from)
				}
			}
		}
	}
	if len(all) == 0 {
		return ITL{}
	}
	slices.Sort(all)
	at := func(q float64) float64 { return load.Milliseconds(all[int(q*float64(len(all)-1))]) }
	return ITL{len(all), at(0.5), at(0.99), at(1)}
}

func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(values))
	return Spread{(s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[0], s[len(s)-1]}
}

// outcome is what is judged. It must not be called before stop.
func (a *asking) outcome() Outcome {
	return Outcome{Requests: a.asked, Failed: a.failed, Differing: a.answers.Differ,
		Failures: a.failures}.judge()
}
