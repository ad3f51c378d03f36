package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"drover/moe"
	"drover/wire"
)

// lane is what one Forward at a time uses: a link to each node, and the state of the
// batch. Its fields belong to the goroutine in Forward, except for the channels.
type lane struct {
	router *Router
	index  int
	start  time.Time

	arrived chan *answer  // from the links
	answers sync.Pool     // of *answer
	woken   chan struct{} // holds one token when table or links changed
	timer   *time.Timer

	local   local
	plan    balance // for choose
	chosen  []int   // the parts of plan's items
	extra   budget  // for hedges and probes
	toCheck []int   // parts on which others are to be asked
	failure error   // of the batch
	nextID  uint64
	flights []*flight // sent and not yet answered, also of earlier batches
	idle    []*flight // for reuse

	// The batch in hand.
	batch     *moe.Batch
	table     *table
	pos       int  // of the batch's layer in the table
	known     bool // the table has the layer
	parts     []part
	remaining int // parts without an answer
	waiting   int // of these, not in flight
	checkAt   time.Duration
}

// part is consecutive rows of one expert, few enough for one frame.
type part struct {
	expert     int32
	first      int // row in the batch
	rows       int
	done       bool
	inFlight   int
	attempts   int           // that failed
	failedAt   time.Duration // first failure, 0 if none
	notBefore  time.Duration // of the next attempt with avoid; after several, with any
	avoid      *node         // that failed last under the present table
	lastNode   *node
	lastReason error
	target     *link // chosen in this round of dispatch

	check *checking // nil unless it is computed twice
	by    *node     // whose rows are used, nil for this machine

	late           bool // of all frames that it is in flight in nothing is heard in time
	local          bool // being computed on this machine
	localAttempts  int  // that failed
	localErr       error
	notLocalBefore time.Duration
}

// flight is one frame on its way.
type flight struct {
	id      uint64
	why     purpose
	session *session
	parts   []int // indices into the lane's parts; none if its batch is gone
	experts int
	rows    int
	bytes   int64
	sent    time.Duration
	hedgeAt time.Duration // 0 if done
	checkAt time.Duration // for signs of life
	pingAt  time.Duration // 0 if none was sent since the last sign
	queued  int64         // bytes before the ping
	late    bool          // others may compute its parts
	doubtAt time.Duration // when to stop hoping for an answer that may be lost, 0 if none is
}

// answer is one received Combine.
type answer struct {
	session  *session
	at       time.Duration
	response wire.Response
}

func newLane(r *Router, index int) *lane {
	l := &lane{
		router:  r,
		index:   index,
		start:   time.Now(),
		arrived: make(chan *answer, wire.MaxStreamFrames),
		woken:   make(chan struct{}, 1),
		timer:   time.NewTimer(0),
		extra:   newBudget(),
		local:   local{jobs: make(chan *localJob, 1), done: make(chan *localJob, 1)},
	}
	l.answers.New = func() any { return new(answer) }
	return l
}

// now is the lane's clock: never 0, never back.
func (l *lane) now() time.Duration { return time.Since(l.start) + 1 }

func (l *lane) wakeUp() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// drop gives an answer back.
func (l *lane) drop(a *answer) {
	a.response.Release()
	a.session = nil
	l.answers.Put(a)
}

// forward is Forward with a lane.
func (l *lane) forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	err := l.begin(b)
	if err == nil {
		err = l.dispatch()
	}
	if meanwhile != nil {
		meanwhile()
	}
	for err == nil && l.remaining > 0 {
		err = l.step(ctx)
	}
	l.finish()
	return err
}

// step waits for one thing to happen and acts on it.
func (l *lane) step(ctx context.Context) error {
	select {
	case a := <-l.arrived: // first, so that no frame with an answer is taken for late
		return l.take(a)
	default:
	}
	if err := l.check(); err != nil || l.remaining == 0 {
		return err
	}
	if l.checkAt == 0 {
		l.due(l.now() + l.router.opts.FrameTimeout)
	}
	l.timer.Reset(max(l.checkAt-l.now(), 0))
	select {
	case a := <-l.arrived:
		return l.take(a)
	case j := <-l.local.done:
		return l.takeLocal(j)
	case <-l.woken:
		return l.look()
	case <-l.timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.router.ctx.Done():
		return ErrClosed
	}
}

// begin checks the batch and cuts it into parts.
func (l *lane) begin(b *moe.Batch) error {
	l.batch, l.parts, l.checkAt = b, l.parts[:0], 0
	l.remaining, l.waiting, l.toCheck, l.failure = 0, 0, l.toCheck[:0], nil
	hidden, at := l.router.opts.Spec.Hidden, 0
	if len(b.Experts) != len(b.Counts) || b.X.Dim != hidden || b.Y.Dim != hidden {
		return fmt.Errorf("layer %d: %d experts, %d counts, rows of %d and %d, hidden size %d",
			b.Layer, len(b.Experts), len(b.Counts), b.X.Dim, b.Y.Dim, hidden)
	}
	for i, expert := range b.Experts {
		count := int(b.Counts[i])
		if count < 1 || i > 0 && expert <= b.Experts[i-1] || expert < 0 {
			return fmt.Errorf("layer %d expert %d: experts must ascend and have rows",
				b.Layer, expert)
		}
		for first := 0; first < count; first += l.router.maxRows {
			l.parts = append(l.parts, part{expert: expert, first: at + first,
				rows: min(count-first, l.router.maxRows)})
		}
		at += count
	}
	if b.X.N != at || b.Y.N != at {
		return fmt.Errorf("layer %d: %d rows in, %d out, the counts add up to %d",
			b.Layer, b.X.N, b.Y.N, at)
	}
	l.remaining, l.waiting = len(l.parts), len(l.parts)
	l.refresh()
	l.noteArrived() // of an earlier batch
	l.localBack()
	l.buryDead()
	return nil
}

// refresh takes the newest table. Whatever failed under the old one may be tried again.
func (l *lane) refresh() {
	t := l.router.table.Load()
	if t == l.table {
		return
	}
	l.table = t
	for i := range l.parts {
		l.parts[i].avoid, l.parts[i].notBefore = nil, 0
	}
}

// look acts on a change of the table or of links.
func (l *lane) look() error {
	l.refresh()
	l.buryDead()
	return l.dispatch()
}

// finish abandons the flights that are left: losers of a hedge, or all after an
// error. They stay known until their answer gives the credit back.
func (l *lane) finish() {
	for _, f := range l.flights {
		if len(f.parts) > 0 {
			f.parts, f.hedgeAt = f.parts[:0], 0
			if f.why == purposeProbe {
				continue // what it is for is the answer's time
			}
			r := l.router.requests.Get().(*wire.Request)
			r.Kind, r.CancelID = wire.KindCancel, f.id
			f.session.enqueue(r)
		}
	}
	l.abandonLocal()
	l.batch = nil
}

// enqueue hands a request to the sending goroutine, if there is room.
func (s *session) enqueue(r *wire.Request) bool {
	s.queued.Add(1)
	select {
	case s.out <- r:
		return true
	default:
		s.queued.Add(-1)
		s.release(r)
		return false
	}
}

// inlineBytes bounds the frames that Forward writes itself: they fit gRPC's write
// quota of a stream, so that writing cannot block on the network.
const inlineBytes = 32 << 10

// enqueueFrame is enqueue for a frame of so many bytes. A small one on an idle
// link is written at once, which saves waking the sending goroutine.
func (s *session) enqueueFrame(r *wire.Request, bytes int64) bool {
	if bytes > inlineBytes || s.flights > 0 || !s.queued.CompareAndSwap(0, 1) {
		return s.enqueue(r)
	}
	_ = s.stream.SendMsg(r) // if it fails, receive learns why and the session ends
	s.release(r)
	s.queued.Add(-1)
	return true
}

func (s *session) release(r *wire.Request) {
	r.Release()
	s.link.router.requests.Put(r)
}
