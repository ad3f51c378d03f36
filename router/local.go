package router

import (
	"context"
	"fmt"
	"time"

	"drover/moe"
	"drover/tensor"
)

// LocalExperts computes experts on this machine: the last resort for those that no node
// computes in time.
type LocalExperts interface {
	// ComputeBatch sets b.Y to the outputs of the experts of b for b.X, the same bytes as
	// a node's, and errs[i] to the i-th expert's error, which leaves its rows undefined. It
	// may load weights first, and ends early when ctx does; what it loads then is to be there
	// for a later call. It is safe for concurrent use.
	ComputeBatch(ctx context.Context, b *moe.Batch, errs []error)
}

// local is a lane's way to the experts on this machine. It takes one job at a time, so
// that what waits is bounded. The fields belong to the goroutine that uses the lane,
// except for the channels.
type local struct {
	jobs chan *localJob // to the lane's computing goroutine
	done chan *localJob // and back
	out  *localJob      // not yet back, nil if none is
	idle *localJob      // for reuse
	// usual is the time of a job by its experts.
	usual line
}

// localJob is parts that are computed on this machine, with rows of their own: the batch
// may be gone before they are.
type localJob struct {
	ctx    context.Context
	cancel context.CancelFunc
	batch  moe.Batch
	errs   []error
	took   time.Duration
	parts  []int // indices into the lane's parts; none if its batch is gone
}

// runLocal computes the lane's jobs, one by one, until Close.
func (l *lane) runLocal() {
	for {
		select {
		case j := <-l.local.jobs:
			began := time.Now()
			l.router.computeLocal(j)
			j.took = time.Since(began)
			l.local.done <- j // never full: there is one job
		case <-l.router.ctx.Done():
			return
		}
	}
}

// computeLocal computes a job. A panic is a bug; it costs the job an error.
func (r *Router) computeLocal(j *localJob) {
	defer func() {
		if v := recover(); v != nil {
			for i := range j.errs {
				j.errs[i] = fmt.Errorf("computing on this machine panicked: %v", v)
			}
		}
	}()
	r.opts.Local.ComputeBatch(j.ctx, &j.batch, j.errs)
}

// patience is how long an expert is without a live replica before it is computed on this
// machine: a few round trips, enough to connect again to a node that is there.
func (l *lane) patience() time.Duration {
	slowest := time.Duration(0)
	for _, n := range l.table.nodes {
		if n != nil {
			slowest = max(slowest, n.links[l.index].state.timing.small())
		}
	}
	return min(max(8*slowest, minPatience), l.router.opts.FrameTimeout)
}

// minPatience is the least patience: nodes that are started again on the same machine,
// and timers, are not faster.
const minPatience = 20 * time.Millisecond

// wantsLocal tells whether a part is to be computed on this machine, and if only later,
// when.
func (l *lane) wantsLocal(p *part, now, patience time.Duration) (want bool, at time.Duration) {
	if p.done || p.local {
		return false, 0
	}
	if p.check != nil && p.check.local {
		return p.localErr == nil && !p.check.heard(nil), 0
	}
	if p.failedAt == 0 || p.inFlight > 0 && !p.late || p.inFlight == 0 && !p.idle() {
		return false, 0
	}
	at = max(min(p.failedAt, l.deadSince(p))+patience, p.notLocalBefore)
	return now >= at, at
}

// deadSince returns since when no replica of the part has had a live link; if one has, now.
func (l *lane) deadSince(p *part) time.Duration {
	since := time.Duration(1)
	for _, i := range l.table.replicas(l.pos, int(p.expert)) {
		n := l.table.nodes[i]
		if n == nil || n.quarantined.Load() || l.table.unready[n.id] {
			continue // there is nothing to be patient for
		}
		k := n.links[l.index]
		switch {
		case k.state.hopelessSince() > 0:
			since = max(since, k.state.hopelessSince())
		case k.session.Load() != nil:
			return l.now()
		default:
			since = max(since, time.Duration(k.downAt.Load()))
		}
	}
	return since
}

// resort sends the parts that no node computes to the experts on this machine, if there
// are some and they are free.
func (l *lane) resort(now time.Duration) {
	if l.router.opts.Local == nil || l.local.out != nil || !l.known || l.remaining == 0 {
		return
	}
	var j *localJob
	patience := l.patience()
	for i := range l.parts {
		p := &l.parts[i]
		want, at := l.wantsLocal(p, now, patience)
		if !want {
			if at > 0 {
				l.due(at)
			}
			continue
		}
		if j == nil {
			j = l.newLocalJob()
		}
		if n := len(j.parts); n > 0 && l.parts[j.parts[n-1]].expert == p.expert {
			j.batch.Counts[len(j.batch.Counts)-1] += int32(p.rows)
		} else {
			j.batch.Experts = append(j.batch.Experts, p.expert)
			j.batch.Counts = append(j.batch.Counts, int32(p.rows))
		}
		j.parts = append(j.parts, i)
		j.batch.X.N += p.rows
		p.local = true
	}
	if j != nil {
		l.startLocal(j)
	}
}

// newLocalJob returns an empty job.
func (l *lane) newLocalJob() *localJob {
	j := l.local.idle
	if j == nil {
		j = new(localJob)
	}
	l.local.idle = nil
	j.parts, j.batch.Layer = j.parts[:0], l.batch.Layer
	j.batch.Experts, j.batch.Counts = j.batch.Experts[:0], j.batch.Counts[:0]
	j.batch.X.N = 0
	return j
}

// startLocal hands a job with its parts over.
func (l *lane) startLocal(j *localJob) {
	dim, n := l.batch.X.Dim, j.batch.X.N
	x := growRows(&j.batch.X, n, dim)
	growRows(&j.batch.Y, n, dim)
	at := 0
	for _, i := range j.parts {
		p := &l.parts[i]
		at += copy(x[at:], l.batch.X.Slice(p.first, p.first+p.rows).Data)
	}
	j.errs = append(j.errs[:0], make([]error, len(j.batch.Experts))...)
	j.ctx, j.cancel = context.WithCancel(l.router.ctx)
	l.local.out = j
	l.local.jobs <- j // there is room: no other is out
	l.tellLastResort(j)
}

// tellLastResort counts and tells of what is computed here and not only checked.
func (l *lane) tellLastResort(j *localJob) {
	var first *part
	count := 0
	for n, i := range j.parts {
		p := &l.parts[i]
		if p.check != nil && p.check.local || n > 0 && l.parts[j.parts[n-1]].expert == p.expert {
			continue
		}
		if count++; first == nil {
			first = p
		}
	}
	if first == nil {
		return
	}
	l.router.stats.lastResort.Add(uint64(count))
	if e := l.router.opts.Events.LastResort; e != nil {
		e(l.batch.Layer, int(first.expert), count, first.lastReason)
	}
}

// growRows makes r n rows of dim in its own memory, and returns them.
func growRows(r *tensor.Rows, n, dim int) []float32 {
	if cap(r.Data) < n*dim {
		r.Data = make([]float32, n*dim)
	}
	*r = tensor.Rows{Data: r.Data[:n*dim], N: n, Dim: dim}
	return r.Data
}

// takeLocal takes the rows of a job that came back, and sends what can be sent.
func (l *lane) takeLocal(j *localJob) error {
	l.noteLocal(j)
	return l.dispatch()
}

func (l *lane) noteLocal(j *localJob) {
	j.cancel()
	l.local.out, l.local.idle = nil, j
	l.local.usual.add(float64(len(j.errs)), float64(j.took), false)
	now, row, expert := l.now(), 0, -1
	for n, i := range j.parts {
		p := &l.parts[i]
		if n == 0 || l.parts[j.parts[n-1]].expert != p.expert {
			expert++
		}
		p.local = false
		if err := j.errs[expert]; err != nil {
			p.localErr = err
			p.notLocalBefore = now + min(retryDelay<<min(p.localAttempts, 10), maxRetryDelay)
			p.localAttempts++
			if !p.done && p.check != nil && p.late && len(p.check.opinions) == 1 {
				l.hearNobody(p) // who else was asked for an opinion is late, too
			}
		} else if rows := j.batch.Y.Slice(row, row+p.rows); !p.done && p.check != nil {
			l.hear(i, nil, rows)
		} else if !p.done {
			l.useRows(p, rows.Data, nil)
		}
		row += p.rows
	}
}

// finishPart notes that a part has its rows.
func (l *lane) finishPart(p *part) {
	p.done = true
	l.remaining--
	if p.inFlight == 0 {
		l.waiting--
	}
}

// abandonLocal lets go of a job whose batch ends.
func (l *lane) abandonLocal() {
	if j := l.local.out; j != nil {
		j.parts = j.parts[:0]
		j.cancel()
	}
}

// localBack takes a job of an earlier batch, if it has come back.
func (l *lane) localBack() {
	select {
	case j := <-l.local.done:
		l.noteLocal(j)
	default:
	}
}
