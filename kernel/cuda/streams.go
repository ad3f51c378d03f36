//go:build cuda && linux

package cuda

import (
	"sync/atomic"

	"drover/kernel"
)

// A device has three ordered streams. One computes. One copies rows from the host to memory
// that no earlier work uses, and one copies results to the host, both while the first goes
// on with other work. What waits for what follows from numbers (T1, T2):
//
//   - Work is cut into times, one up to each StartRead or Sync. The host knows up to which
//     time all work is done: from the event that a Read waited for, or since it waited for all.
//   - T1: memory, of the device or pinned, has the last time that work uses it. It is written
//     beside the computing stream, or by the host, when that time is done.
//   - T2: the computing stream waits for copies of the second stream before it does anything
//     that was queued later, and for one of the third before the memory that it reads is used
//     again. The third waits for the computing stream before each copy.

// mostReads is how many results are on their way to the host at a time, beside the computing
// stream.
const mostReads = 3

// reading is a copy of rows to the host by the third stream.
type reading struct {
	memory           *rowsMemory // kept from the collector; nil if there is none
	from, bytes      int
	time             uint64
	computed, copied *event
	there            atomic.Bool // somebody waited for it
}

// streams are those beside the computing stream.
type streams struct {
	in, out   uintptr
	arrived   *event // behind copies of in
	unordered bool   // the computing stream does not wait for the last of them yet
	now, done uint64 // times
	reads     [mostReads]reading
	next      int // of reads
}

// openStreams makes the streams when the first result is read ahead.
func (d *Device) openStreams() (err error) {
	s := &d.streams
	for _, stream := range []*uintptr{&s.in, &s.out} {
		if *stream == 0 {
			if *stream, err = d.c.newStream(); err != nil {
				return err
			}
		}
	}
	for _, e := range s.events() {
		if *e == nil {
			if *e, err = d.c.newEvent(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *streams) events() []**event {
	all := []**event{&s.arrived}
	for i := range s.reads {
		all = append(all, &s.reads[i].computed, &s.reads[i].copied)
	}
	return all
}

// closeStreams gives back what openStreams made.
func (d *Device) closeStreams() {
	s := &d.streams
	for _, stream := range []uintptr{s.in, s.out} {
		if stream != 0 {
			_ = d.c.call(cuStreamDestroy, stream) // of a device that is lost nothing is to be had
		}
	}
	for _, e := range s.events() {
		if *e != nil {
			_ = (*e).destroy() // as above
		}
	}
}

// ordered makes the computing stream wait for the copies that came beside it (T2).
func (d *Device) ordered() error {
	s := &d.streams
	if !s.unordered {
		return nil
	}
	s.unordered = false
	if err := s.arrived.record(s.in); err != nil {
		return err
	}
	return s.arrived.before(d.c.stream)
}

// Ahead is how many results may be on their way at a time.
func (d *Device) Ahead() int { return mostReads }

// nothing is the Arrival of rows that are not on their way: Read says why.
type nothing struct{}

func (nothing) Wait() error { return nil }

// Wait waits until the copy is there. What went wrong is Read's error, too.
func (r *reading) Wait() error {
	if r.there.Load() {
		return nil
	}
	err := r.copied.wait()
	r.there.Store(err == nil)
	return err
}

// StartRead queues a copy of rows to the host, beside what is queued after it.
func (d *Device) StartRead(src kernel.Rows) kernel.Arrival {
	bytes := 4 * src.N * src.Dim
	if bytes == 0 || d.Err() != nil {
		return nothing{}
	}
	m := d.rowsOf(src)
	if d.mirror(m) != nil {
		return nothing{}
	}
	if err := d.startRead(m, 4*src.Offset, bytes); err != nil {
		d.fail(err)
		return nothing{}
	}
	return m.reading
}

func (d *Device) startRead(m *rowsMemory, from, bytes int) error {
	s := &d.streams
	if s.out == 0 {
		if err := d.openStreams(); err != nil {
			return err
		}
	}
	r := &s.reads[s.next]
	if r.memory != nil {
		if err := s.wait(r); err != nil {
			return err
		}
		r.release()
	}
	if d.submit(); d.Err() != nil {
		return d.Err()
	}
	if err := d.ordered(); err != nil {
		return err
	}
	r.there.Store(false)
	if err := r.computed.record(d.c.stream); err != nil {
		return err
	}
	if err := r.computed.before(s.out); err != nil {
		return err
	}
	if err := m.memory.copyTo(s.out, m.host, from, from, bytes); err != nil {
		return err
	}
	if err := r.copied.record(s.out); err != nil {
		return err
	}
	r.memory, r.from, r.bytes, r.time = m, from, bytes, s.now
	m.reading, m.used = r, s.now
	s.now++
	s.next = (s.next + 1) % mostReads
	return nil
}

// wait waits for a result, and with it for all that was queued before it.
func (s *streams) wait(r *reading) error {
	if err := r.Wait(); err != nil {
		return err
	}
	s.done = max(s.done, r.time)
	for i := range s.reads {
		if r := &s.reads[i]; r.memory != nil && r.time <= s.done {
			r.there.Store(true)
		}
	}
	return nil
}

// release ends a reading that is there.
func (r *reading) release() {
	if r.memory.reading == r {
		r.memory.reading = nil
	}
	r.memory = nil
}

// settle makes the computing stream wait until rows that are on their way to the host are
// there (T2): the next operation may write to them.
func (d *Device) settle(m *rowsMemory) {
	if m.reading == nil || d.Err() != nil {
		return
	}
	if !m.reading.there.Load() {
		d.flush()
		if err := m.reading.copied.before(d.c.stream); err != nil {
			d.fail(err)
		}
	}
	m.reading = nil
}

// busy reports whether work that may not be done yet uses the memory.
func (s *streams) busy(m *rowsMemory) bool { return m.used > s.done }

// Sync waits for what was queued.
func (d *Device) Sync() error {
	d.submit()
	if err := d.idle(); err != nil {
		return err
	}
	d.streams.done = d.streams.now
	d.streams.now++
	return nil
}

// idle waits for what the driver was given. All pinned memory that copies go through is free
// after it.
func (d *Device) idle() error {
	if err := d.Err(); err != nil {
		return err
	}
	if err := d.waitAll(); err != nil {
		return d.fail(err)
	}
	d.streams.done = max(d.streams.done, d.streams.now-1)
	d.staging.empty()
	return nil
}

func (d *Device) waitAll() error {
	s := &d.streams
	if err := d.ordered(); err != nil {
		return err
	}
	last := &s.reads[(s.next+mostReads-1)%mostReads]
	if last.memory != nil {
		if err := s.wait(last); err != nil {
			return err
		}
	}
	return d.c.Sync()
}
