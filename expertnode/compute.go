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

func (s *Server) holdsAll(d *wire.Dispatch) bool {
	for _, expert := range d.ExpertIDs {
		if !s.opts.Replicas.Holds(int(d.Layer), int(expert)) {
			return false
		}
	}
	return true
}

// refuse answers a frame with one status for all of its experts and no rows.
func (f *frame) refuse(status wire.Status, detail string) {
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
	c := computer{server: s}
	for {
		select {
		case f := <-s.queue:
			f.stream.forget(f.request.Dispatch.FrameID)
			c.run(f)
		case <-s.done:
			return
		}
	}
}

// computer is the memory of the compute goroutine.
type computer struct {
	server *Server
	x, y   []float32
	batch  moe.Batch
	errs   []error
}

// run answers one frame.
func (c *computer) run(f *frame) {
	started := time.Now()
	switch {
	case f.stream.ctx.Err() != nil:
		f.end() // nobody is left to read an answer
		return
	case f.cancelled.Load():
		f.refuse(wire.StatusCancelled, "")
		return
	case !f.deadline.IsZero() && started.After(f.deadline):
		f.refuse(wire.StatusDeadline, fmt.Sprintf("waited %v", started.Sub(f.received)))
		return
	}
	r := f.reply()
	r.Combine.QueueMicros = micros(started.Sub(f.received))
	c.compute(f, r)
	r.Combine.ComputeMicros = micros(time.Since(started))
	c.server.frames.Add(1)
	c.server.rows.Add(uint64(r.Combine.RowCount))
	f.answer(r)
}

func micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}

// compute fills the Combine: the rows of the experts that could be computed, in
// order, and the statuses if not all of them are OK.
func (c *computer) compute(f *frame, r *wire.Response) {
	s := c.server
	c.take(f)
	if detail := c.computeBatch(); detail != "" {
		for range c.batch.Experts {
			r.Combine.Statuses = append(r.Combine.Statuses, wire.StatusInternal)
		}
		r.Combine.RowCount, r.Combine.Detail = 0, detail
		return
	}
	allOK, in, out := true, 0, 0
	for i, n := range c.batch.Counts {
		status := statusOf(c.errs[i])
		r.Combine.Statuses = append(r.Combine.Statuses, status)
		if status != wire.StatusOK {
			if allOK && status == wire.StatusNotHosted {
				f.report(status, c.errs[i].Error())
			}
			allOK, r.Combine.Detail = false, c.errs[i].Error()
		} else {
			if out != in { // an expert before has no rows
				copy(c.batch.Y.Slice(out, out+int(n)).Data, c.batch.Y.Slice(in, in+int(n)).Data)
			}
			out += int(n)
		}
		in += int(n)
	}
	if allOK {
		r.Combine.Statuses = r.Combine.Statuses[:0]
	}
	r.Combine.RowCount = uint32(out)
	if out > 0 {
		hidden := s.spec.Hidden
		rows, bytes := s.pool.NewBuffer(out * hidden * s.dtype.Size())
		wire.PutRows(bytes, c.y[:out*hidden], s.dtype)
		r.Rows = rows
	}
}

// take makes c.batch of a frame.
func (c *computer) take(f *frame) {
	s, d := c.server, &f.request.Dispatch
	n, hidden := int(d.RowCount), s.spec.Hidden
	c.x = resize(c.x, n*hidden)
	c.y = resize(c.y, n*hidden)
	wire.TakeRows(c.x, f.request.RowBytes(), s.dtype)
	b := &c.batch
	b.Layer, b.Experts, b.Counts = int(d.Layer), b.Experts[:0], b.Counts[:0]
	for i, expert := range d.ExpertIDs {
		b.Experts = append(b.Experts, int32(expert))
		b.Counts = append(b.Counts, int32(d.ExpertRowCounts[i]))
	}
	b.X = tensor.Rows{Data: c.x, N: n, Dim: hidden}
	b.Y = tensor.Rows{Data: c.y, N: n, Dim: hidden}
	c.errs = slices.Grow(c.errs[:0], len(b.Experts))[:len(b.Experts)]
	clear(c.errs)
}

// computeBatch computes c.batch. A panic is a bug; it costs this frame an internal
// error, which detail describes, instead of every request its node.
func (c *computer) computeBatch() (detail string) {
	defer func() {
		if v := recover(); v != nil {
			if f := c.server.opts.Events.ComputePanicked; f != nil {
				f(c.batch.Layer, c.batch.Experts, v, debug.Stack())
			}
			detail = fmt.Sprintf("layer %d experts %v: computation panicked", c.batch.Layer,
				c.batch.Experts)
		}
	}()
	c.server.opts.Replicas.ComputeBatch(&c.batch, c.errs)
	return ""
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
