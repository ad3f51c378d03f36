//go:build cuda && linux

package cuda

import "slices"

const (
	// mostQueued is how many launches are held back, up to those of one more operation.
	mostQueued = 256
	// argumentBytes is the device's memory for tokens, picks, panels and tables, unless some
	// need more.
	argumentBytes = 1 << 20
	// argumentAlign is what they begin at multiples of.
	argumentAlign = 256
	// mostArguments is the most that a kernel of a Device takes.
	mostArguments = 8
)

// launched is a launch that is held back, without bytes that mean nothing.
type launched struct {
	kernel    int32 // a kernelID
	grid      Grid
	arguments [mostArguments]uint64
}

// queue is launches that the driver was not given yet, in order. Held back, all that they
// read of the host goes in one copy, and what was seen before is one launch of a graph.
type queue struct {
	launches []launched
	// data is what they read, and is copied to device, of which some was sent already.
	data   []byte
	sent   int
	device *Memory
	// holds is what they refer to: the collector would give its memory back.
	holds []any
	// retired is memory that they use and nothing after them does.
	retired []*Memory
}

// begin begins an operation.
func (d *Device) begin() {
	if len(d.queue.launches) >= mostQueued || len(d.queue.data) >= argumentBytes/2 {
		d.submit()
	}
}

// launch queues a kernel, unless something went wrong before.
func (d *Device) launch(k kernelID, g Grid, arguments ...uint64) {
	if d.Err() != nil {
		return
	}
	l := launched{kernel: int32(k), grid: g}
	if copy(l.arguments[:], arguments) < len(arguments) {
		panic("cuda: a kernel with too many arguments")
	}
	d.queue.launches = append(d.queue.launches, l)
}

// argument queues bytes, which are the caller's again, and returns where the kernels of the
// same operation find them. Without bytes it is 0.
func (d *Device) argument(data []byte) uint64 {
	q := &d.queue
	if len(data) == 0 || d.Err() != nil {
		return 0
	}
	if q.device == nil || len(q.data)+len(data) > q.device.size {
		if err := d.moreArguments(len(data)); err != nil {
			d.fail(err)
			return 0
		}
	}
	at := len(q.data)
	end := min((at+len(data)+argumentAlign-1)/argumentAlign*argumentAlign, q.device.size)
	q.data = slices.Grow(q.data, end-at)[:end]
	copy(q.data[at:], data)
	return q.device.At(at)
}

// moreArguments makes room for arguments where what there is is full.
func (d *Device) moreArguments(size int) error {
	d.flush()
	q := &d.queue
	if q.device != nil {
		q.retired = append(q.retired, q.device)
		q.device = nil
	}
	m, err := d.memory.take(max(size, argumentBytes))
	q.device, q.data, q.sent = m, q.data[:0], 0
	return err
}

// flush gives the driver what is queued, also in the middle of an operation: what that has
// as arguments stays.
func (d *Device) flush() {
	q := &d.queue
	if len(q.launches) > 0 && d.Err() == nil {
		if err := d.send(); err != nil {
			d.fail(err)
		}
	}
	q.launches = q.launches[:0]
}

// submit gives the driver what is queued, between operations.
func (d *Device) submit() {
	d.flush()
	q := &d.queue
	q.data, q.sent = q.data[:0], 0
	clear(q.holds)
	q.holds = q.holds[:0]
	for _, m := range q.retired {
		d.memory.give(m)
	}
	q.retired = q.retired[:0]
}

func (d *Device) send() error {
	q := &d.queue
	if err := d.ordered(); err != nil {
		return err
	}
	if q.sent < len(q.data) {
		if err := d.copyIn(d.c.stream, q.device, q.sent, q.data[q.sent:]); err != nil {
			return err
		}
		q.sent = len(q.data)
	}
	return d.graphs.run(d, q.launches)
}

// hold keeps what launches refer to until the driver has them.
func (d *Device) hold(v any) { d.queue.holds = append(d.queue.holds, v) }
