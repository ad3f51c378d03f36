package expertnode

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"time"

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
	f.answer(r)
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
	s, d := c.server, &f.request.Dispatch
	hidden := s.spec.Hidden
	c.x = resize(c.x, int(d.RowCount)*hidden)
	c.y = resize(c.y, int(d.RowCount)*hidden)
	wire.TakeRows(c.x, f.request.RowBytes(), s.dtype)
	allOK, in, out := true, 0, 0
	for i, expert := range d.ExpertIDs {
		n := int(d.ExpertRowCounts[i])
		x := tensor.Rows{Data: c.x[in*hidden : (in+n)*hidden], N: n, Dim: hidden}
		y := tensor.Rows{Data: c.y[out*hidden : (out+n)*hidden], N: n, Dim: hidden}
		in += n
		status, detail := s.computeExpert(int(d.Layer), int(expert), y, x)
		r.Combine.Statuses = append(r.Combine.Statuses, status)
		if status == wire.StatusOK {
			out += n
			continue
		}
		allOK, r.Combine.Detail = false, detail
	}
	if allOK {
		r.Combine.Statuses = r.Combine.Statuses[:0]
	}
	r.Combine.RowCount = uint32(out)
	if out > 0 {
		rows, bytes := s.pool.NewBuffer(out * hidden * s.dtype.Size())
		wire.PutRows(bytes, c.y[:out*hidden], s.dtype)
		r.Rows = rows
	}
}

// computeExpert computes one expert's rows. A panic is a bug; it costs this frame
// an internal error instead of every request its node.
func (s *Server) computeExpert(layer, expert int, y, x tensor.Rows) (
	status wire.Status, detail string) {
	defer func() {
		if v := recover(); v != nil {
			if f := s.opts.Events.ComputePanicked; f != nil {
				f(layer, expert, v, debug.Stack())
			}
			status = wire.StatusInternal
			detail = fmt.Sprintf("layer %d expert %d: computation panicked", layer, expert)
		}
	}()
	switch err := s.opts.Replicas.Compute(layer, expert, y, x); {
	case err == nil:
		return wire.StatusOK, ""
	case errors.Is(err, ErrNotHeld):
		return wire.StatusNotHosted, err.Error()
	default:
		return wire.StatusInternal, err.Error()
	}
}

// resize returns s with the length, newly allocated if its capacity does not suffice.
func resize(s []float32, length int) []float32 {
	if cap(s) < length {
		return make([]float32, length)
	}
	return s[:length]
}
