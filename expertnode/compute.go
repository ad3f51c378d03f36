package expertnode

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"drover/moe"
	"drover/tensor"
	"drover/wire"
)

// checkShape checks everything that a Dispatch claims about its experts and rows.
func (s *Server) checkShape(d *wire.Dispatch, rowBytes int) error {
	size := s.spec.Hidden * s.dtype.Size()
	switch {
	case d.DType != s.dtype:
		return fmt.Errorf("rows are %v, the expert node takes %v", d.DType, s.dtype)
	case rowBytes > s.opts.MaxFrameBytes:
		return fmt.Errorf("%d bytes of rows, the limit is %d", rowBytes, s.opts.MaxFrameBytes)
	case d.RowCount == 0 || uint64(d.RowCount)*uint64(size) != uint64(rowBytes):
		return fmt.Errorf("%d rows of %d bytes are claimed, %d bytes came",
			d.RowCount, size, rowBytes)
	case len(d.ExpertIDs) != len(d.ExpertRowCounts):
		return fmt.Errorf("%d experts with %d row counts", len(d.ExpertIDs), len(d.ExpertRowCounts))
	}
	if _, ok := slices.BinarySearch(s.spec.Layers, int(d.Layer)); !ok {
		return fmt.Errorf("layer %d has no experts in this model", d.Layer)
	}
	sum := uint64(0)
	for i, expert := range d.ExpertIDs {
		if int(expert) >= s.spec.Experts || i > 0 && expert <= d.ExpertIDs[i-1] {
			return fmt.Errorf("expert %d: ids must ascend and be below %d", expert, s.spec.Experts)
		}
		if d.ExpertRowCounts[i] == 0 {
			return fmt.Errorf("expert %d has no rows", expert)
		}
		sum += uint64(d.ExpertRowCounts[i])
	}
	if sum != uint64(d.RowCount) {
		return fmt.Errorf("the experts' rows add up to %d, the frame claims %d", sum, d.RowCount)
	}
	return nil
}

// refuse answers a frame with one status for all of its experts and no rows.
func (f *frame) refuse(status wire.Status, detail string) {
	f.stream.server.recorder.refuse(status)
	r := f.reply()
	for range f.request.Dispatch.ExpertIDs {
		r.Combine.Statuses = append(r.Combine.Statuses, status)
	}
	if len(r.Combine.Statuses) == 0 { // a header that claims no experts is refused, too
		r.Combine.Statuses = append(r.Combine.Statuses, status)
	}
	r.Combine.Detail = detail
	if status == wire.StatusCorrupt || status == wire.StatusBadShape {
		f.report(status, detail)
	}
	f.answer(r)
}

// report tells of a frame that is not computed.
func (f *frame) report(status wire.Status, detail string) {
	if e := f.stream.server.opts.Events.FrameRefused; e != nil {
		e(f.stream.address, f.request.Dispatch.FrameID, status, detail)
	}
}

// reply returns the Combine of a frame, without statuses and rows.
func (f *frame) reply() *wire.Response {
	s := f.stream.server
	r := s.replies.Get().(*wire.Response)
	r.Kind = wire.KindCombine
	r.Combine = wire.Combine{
		FrameID:      f.request.Dispatch.FrameID,
		DType:        s.dtype,
		Statuses:     r.Combine.Statuses[:0],
		NodeRevision: s.revision.Load(),
		CreditBytes:  uint64(len(f.request.RowBytes())),
	}
	return r
}

// newFrame returns a frame to receive into, which may have served before.
func (s *Server) newFrame() *frame { return s.idle.Get().(*frame) }

// answer hands the Combine to the stream and ends the frame. It never blocks: the
// stream has room for an answer to each of its frames.
func (f *frame) answer(r *wire.Response) {
	st := f.stream
	f.end()
	select {
	case st.out <- r:
	default:
		panic("expertnode: more answers than frames")
	}
}

// end gives the frame and its rows back.
func (f *frame) end() {
	s := f.stream.server
	f.request.Release()
	f.stream = nil
	s.idle.Put(f)
}

// computeFrames takes frames from the queue until Close. It is the only goroutine
// that computes.
func (s *Server) computeFrames() {
	c := computer{server: s, maxRows: s.opts.MaxFrameBytes / (s.spec.Hidden * s.dtype.Size())}
	for {
		select {
		case <-s.queue.wake:
		case <-s.done:
			return
		}
		for c.frames = s.queue.take(c.frames[:0], c.maxRows); len(c.frames) > 0; {
			c.run()
			select {
			case <-s.done:
				return
			default:
			}
			c.frames = s.queue.take(c.frames[:0], c.maxRows)
		}
	}
}

// computer is the memory of the compute goroutine.
type computer struct {
	server  *Server
	maxRows int      // of several frames together
	frames  []*frame // taken from the queue
	shares  []share  // those of them that are computed
	x, y    []float32
	batch   moe.Batch
	errs    []error
	started time.Time
}

// share is one frame's part in a batch.
type share struct {
	frame  *frame
	reply  *wire.Response
	cursor int    // in the frame's experts
	row    int    // in the frame's rows, or of those that go back
	bytes  []byte // of the rows that go back
}

// run answers the frames, all of one layer, with one computation.
func (c *computer) run() {
	if !c.open() {
		return
	}
	c.compute()
	c.answer(time.Now(), time.Since(c.started))
	clear(c.shares)
}

// open makes shares of the frames that are to be computed, and answers the others. It reports
// whether there are any.
func (c *computer) open() bool {
	started := time.Now()
	c.shares, c.started = c.shares[:0], started
	for _, f := range c.frames {
		f.stream.forget(f.request.Dispatch.FrameID)
		switch {
		case f.stream.ctx.Err() != nil:
			f.end() // nobody is left to read an answer
		case f.cancelled.Load():
			f.refuse(wire.StatusCancelled, "")
		case !f.deadline.IsZero() && started.After(f.deadline):
			f.refuse(wire.StatusDeadline, fmt.Sprintf("waited %v", started.Sub(f.received)))
		default:
			c.shares = append(c.shares, share{frame: f, reply: f.reply()})
		}
	}
	clear(c.frames)
	return len(c.shares) > 0
}

// answer sends the replies. Each frame is told its part of the computation's time, by
// what it asked for; the rest of its time it has waited.
func (c *computer) answer(now time.Time, took time.Duration) {
	s, whole := c.server, 0
	for i := range c.shares {
		whole += c.shares[i].work()
	}
	s.batches.Add(1)
	s.recorder.compute.ObserveTime(took)
	s.recorder.rows.Observe(float64(c.rows()))
	for i := range c.shares {
		sh := &c.shares[i]
		r := sh.reply
		part := took * time.Duration(sh.work()) / time.Duration(whole)
		r.Combine.ComputeMicros = micros(part)
		r.Combine.QueueMicros = micros(now.Sub(sh.frame.received) - part)
		s.recorder.queue.ObserveTime(now.Sub(sh.frame.received) - took)
		s.frames.Add(1)
		s.rows.Add(uint64(r.Combine.RowCount))
		sh.frame.answer(r)
	}
}

// rows is the number of rows that frames have together.
func (c *computer) rows() (rows int) {
	for i := range c.shares {
		rows += int(c.shares[i].frame.request.Dispatch.RowCount)
	}
	return rows
}

// work is the size of a frame's computation: weights are read once for each expert,
// which costs as much as about 8 rows' arithmetic.
func (sh *share) work() int {
	d := &sh.frame.request.Dispatch
	return 8*len(d.ExpertIDs) + int(d.RowCount)
}

func micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}

// compute fills the replies: the rows of the experts that could be computed, in order,
// and the statuses if not all of them are OK. A panic is a bug, of one of the frames: then
// each is computed alone, and the one that panics again gets an internal error instead
// of every request its node.
func (c *computer) compute() {
	c.gather(c.shares)
	c.fill(c.computeBatch())
}

// fill fills the replies after a computation that panicked if detail is not empty.
func (c *computer) fill(detail string) {
	if detail == "" {
		c.scatter(c.shares)
		return
	}
	for i := range c.shares {
		alone := c.shares[i : i+1]
		if len(c.shares) > 1 {
			c.gather(alone)
			detail = c.computeBatch()
		}
		if detail == "" {
			c.scatter(alone)
			continue
		}
		c.server.recorder.refuse(wire.StatusInternal)
		r := alone[0].reply
		for range alone[0].frame.request.Dispatch.ExpertIDs {
			r.Combine.Statuses = append(r.Combine.Statuses, wire.StatusInternal)
		}
		r.Combine.RowCount, r.Combine.Detail = 0, detail
	}
}

// gather makes c.batch of frames: their experts in ascending order, and for each of
// them the rows of the first frame that has some, then those of the next.
func (c *computer) gather(shares []share) {
	s, b, total := c.server, &c.batch, 0
	hidden, size := s.spec.Hidden, s.spec.Hidden*s.dtype.Size()
	for i := range shares {
		shares[i].cursor, shares[i].row = 0, 0
		total += int(shares[i].frame.request.Dispatch.RowCount)
	}
	c.x, c.y = resize(c.x, total*hidden), resize(c.y, total*hidden)
	b.Layer, b.Experts, b.Counts = int(shares[0].frame.request.Dispatch.Layer),
		b.Experts[:0], b.Counts[:0]
	for at := 0; at < total; {
		expert, n := nextExpert(shares), 0
		for i := range shares {
			sh := &shares[i]
			if rows := sh.rowsOf(expert); rows > 0 {
				from := sh.frame.request.RowBytes()[sh.row*size:]
				wire.TakeRows(c.x[(at+n)*hidden:(at+n+rows)*hidden], from[:rows*size], s.dtype)
				sh.row, sh.cursor, n = sh.row+rows, sh.cursor+1, n+rows
			}
		}
		b.Experts, b.Counts = append(b.Experts, int32(expert)), append(b.Counts, int32(n))
		at += n
	}
	b.X = tensor.Rows{Data: c.x, N: total, Dim: hidden}
	b.Y = tensor.Rows{Data: c.y, N: total, Dim: hidden}
	c.errs = slices.Grow(c.errs[:0], len(b.Experts))[:len(b.Experts)]
	clear(c.errs)
}

// nextExpert is the lowest expert at a cursor. There is one while rows are left.
func nextExpert(shares []share) uint32 {
	lowest := uint32(math.MaxUint32)
	for i := range shares {
		ids := shares[i].frame.request.Dispatch.ExpertIDs
		if at := shares[i].cursor; at < len(ids) {
			lowest = min(lowest, ids[at])
		}
	}
	return lowest
}

// rowsOf is the number of rows for an expert at the cursor.
func (sh *share) rowsOf(expert uint32) int {
	d := &sh.frame.request.Dispatch
	if sh.cursor >= len(d.ExpertIDs) || d.ExpertIDs[sh.cursor] != expert {
		return 0
	}
	return int(d.ExpertRowCounts[sh.cursor])
}

// scatter fills the replies from what was computed of c.batch.
func (c *computer) scatter(shares []share) {
	s := c.server
	hidden, size := s.spec.Hidden, s.spec.Hidden*s.dtype.Size()
	for i := range shares {
		c.prepare(&shares[i])
	}
	at := 0
	for b, expert := range c.batch.Experts {
		for i := range shares {
			sh := &shares[i]
			rows := sh.rowsOf(uint32(expert))
			if rows == 0 {
				continue
			}
			if c.errs[b] == nil {
				wire.PutRows(sh.bytes[sh.row*size:(sh.row+rows)*size],
					c.y[at*hidden:(at+rows)*hidden], s.dtype)
				sh.row += rows
			}
			sh.cursor++
			at += rows
		}
	}
}

// prepare sets the statuses of a frame's reply and makes room for its rows.
func (c *computer) prepare(sh *share) {
	s, r, d := c.server, sh.reply, &sh.frame.request.Dispatch
	allOK, rows := true, 0
	for i, expert := range d.ExpertIDs {
		b, _ := slices.BinarySearch(c.batch.Experts, int32(expert)) // it is there
		err := c.errs[b]
		status := statusOf(err)
		r.Combine.Statuses = append(r.Combine.Statuses, status)
		if status == wire.StatusOK {
			rows += int(d.ExpertRowCounts[i])
			continue
		}
		if allOK {
			s.recorder.refuse(status)
		}
		if allOK && status == wire.StatusNotHosted {
			sh.frame.report(status, err.Error())
		}
		allOK, r.Combine.Detail = false, err.Error()
	}
	if allOK {
		r.Combine.Statuses = r.Combine.Statuses[:0]
	}
	r.Combine.RowCount = uint32(rows)
	sh.cursor, sh.row, sh.bytes = 0, 0, nil
	if rows > 0 {
		r.Rows, sh.bytes = s.pool.NewBuffer(rows * s.spec.Hidden * s.dtype.Size())
	}
}

// computeBatch computes c.batch. A panic is told in detail.
func (c *computer) computeBatch() (detail string) {
	defer c.recovered(&detail)
	c.server.opts.Replicas.ComputeBatch(&c.batch, c.errs)
	return ""
}

// recovered ends a panic of a computation.
func (c *computer) recovered(detail *string) {
	v := recover()
	if v == nil {
		return
	}
	c.server.recorder.panics.Add(1)
	if f := c.server.opts.Events.ComputePanicked; f != nil {
		f(c.batch.Layer, c.batch.Experts, v, debug.Stack())
	}
	*detail = fmt.Sprintf("layer %d experts %v: computation panicked", c.batch.Layer,
		c.batch.Experts)
}

// statusOf is how an expert's error is told to a router.
func statusOf(err error) wire.Status {
	switch {
	case err == nil:
		return wire.StatusOK
	case errors.Is(err, ErrNotHeld):
		return wire.StatusNotHosted
	}
	return wire.StatusInternal
}

// resize returns s with the length, newly allocated if its capacity does not suffice.
func resize(s []float32, length int) []float32 {
	if cap(s) < length {
		return make([]float32, length)
	}
	return s[:length]
}
