//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// rowsMemory is the memory of Rows.
type rowsMemory struct {
	device   *Device
	memory   *Memory // nil without elements
	elements int
	// host is where Read copies to, at the same places; nil until then.
	host *Host
	// used is the last time that work uses the memory (T1), and reading the copy to the host
	// that computing work does not wait for yet (T2).
	used    uint64
	reading *reading
}

// Elements is the number of float32.
func (m *rowsMemory) Elements() int { return m.elements }

// Allocate returns rows of zeros.
func (d *Device) Allocate(n, dim int) (kernel.Rows, error) {
	if n < 0 || dim < 0 || dim > 0 && n > math.MaxInt/8/dim {
		return kernel.Rows{}, fmt.Errorf("allocate %d rows of %d elements: out of range", n, dim)
	}
	m := &rowsMemory{device: d, elements: n * dim, used: d.streams.now}
	if m.elements > 0 {
		memory, err := d.take(4 * m.elements)
		if err != nil {
			return kernel.Rows{}, fmt.Errorf("allocate %d rows of %d elements: %w", n, dim, err)
		}
		m.memory = memory
		runtime.AddCleanup(m, d.memory.give, memory)
	}
	return kernel.Rows{N: n, Dim: dim, Memory: m}, nil
}

// take lends memory of zeros to the stream.
func (d *Device) take(size int) (*Memory, error) {
	if err := d.Err(); err != nil {
		return nil, err
	}
	memory, err := d.memory.take(size)
	if err == nil {
		err = d.ordered()
	}
	if err == nil {
		err = memory.clear()
	}
	return memory, d.noticed(err)
}

// rowsOf returns the memory of rows, which are some.
func (d *Device) rowsOf(r kernel.Rows) *rowsMemory {
	m, ok := r.Memory.(*rowsMemory)
	if !ok || m.device != d || r.Offset < 0 || r.Offset+r.N*r.Dim > m.elements {
		panic(fmt.Sprintf("cuda: rows (%d,%d) at %d of %T are not this device's", r.N, r.Dim, r.Offset,
			r.Memory))
	}
	return m
}

// at returns the address of rows for the launch that is queued next, 0 for none.
func (d *Device) at(r kernel.Rows) uint64 {
	if r.N*r.Dim == 0 {
		return 0
	}
	m := d.rowsOf(r)
	d.settle(m)
	d.hold(m)
	m.used = d.streams.now
	return m.memory.At(4 * r.Offset)
}

// Write queues a copy of rows from the host: beside the computing stream where that is busy
// with work that the host does not wait for yet, and does not use the rows (T1).
func (d *Device) Write(dst kernel.Rows, src tensor.Rows) {
	if dst.N*dst.Dim != src.N*src.Dim {
		panic(fmt.Sprintf("cuda: (%d,%d) written to (%d,%d)", src.N, src.Dim, dst.N, dst.Dim))
	}
	data := memoryOf(src.Data[:src.N*src.Dim])
	if len(data) == 0 || d.Err() != nil {
		return
	}
	m, s := d.rowsOf(dst), &d.streams
	stream := d.c.stream
	var err error
	d.settle(m)
	switch {
	case s.busy(m):
		d.submit()
		err = d.ordered()
	case s.now > s.done+1:
		stream = s.in
	}
	if err == nil {
		err = d.copyIn(stream, m.memory, 4*dst.Offset, data)
	}
	if err != nil {
		d.fail(err)
	}
	m.used = s.now
}

// mirror makes sure that rows have memory of the host to be read to.
func (d *Device) mirror(m *rowsMemory) error {
	if m.host != nil {
		return nil
	}
	host, err := d.pinned.take(4 * m.elements)
	if err != nil {
		return d.noticed(err)
	}
	m.host = host
	runtime.AddCleanup(m, d.pinned.give, host)
	return nil
}

// Read returns rows in the host's memory: those of StartRead, as soon as they are there, or
// what all that was queued makes of them.
func (d *Device) Read(src kernel.Rows) (tensor.Rows, error) {
	out := tensor.Rows{N: src.N, Dim: src.Dim}
	at, bytes := 4*src.Offset, 4*src.N*src.Dim
	if bytes == 0 {
		return out, d.Sync()
	}
	if err := d.Err(); err != nil {
		return out, err
	}
	m := d.rowsOf(src)
	if err := d.mirror(m); err != nil {
		return out, fmt.Errorf("read %d rows of %d elements: %w", src.N, src.Dim, err)
	}
	if r := m.reading; r != nil && r.from == at && r.bytes == bytes {
		if err := d.streams.wait(r); err != nil {
			return out, d.fail(err)
		}
		r.release()
	} else if err := d.read(m, at, bytes); err != nil {
		return out, err
	}
	out.Data = unsafe.Slice((*float32)(unsafe.Pointer(&m.host.Bytes[at])), src.N*src.Dim)
	return out, nil
}

// read copies rows to the host, behind all that was queued.
func (d *Device) read(m *rowsMemory, at, bytes int) error {
	if d.submit(); d.Err() != nil {
		return d.Err()
	}
	err := d.ordered()
	if err == nil {
		err = m.memory.copyTo(d.c.stream, m.host, at, at, bytes)
	}
	if err != nil {
		return d.fail(err)
	}
	return d.Sync()
}

// weights are packed weights in the form of the CPU.
type weights struct {
	device *Device
	memory *Memory
	shape  kernel.Shape
	bytes  int
}

// Shape is the number of outputs and of inputs.
func (w *weights) Shape() (outputs, inputs int) { return w.shape.N, w.shape.K }

// Bytes is the size of the packed weights.
func (w *weights) Bytes() int { return w.bytes }

// Format is how they are packed.
func (w *weights) Format() kernel.Format { return w.shape.Format }

// Upload copies a matrix to the device.
func (d *Device) Upload(m *kernel.Matrix) (kernel.Weights, error) {
	if m == nil {
		return nil, errors.New("upload weights: there is no matrix")
	}
	if err := multiplied(m.Format()); err != nil {
		return nil, err
	}
	memory, err := d.upload(m.Packed())
	runtime.KeepAlive(m)
	if err != nil {
		return nil, fmt.Errorf("upload weights, %d×%d of %v: %w", m.N, m.K, m.Format(), err)
	}
	w := &weights{d, memory, kernel.Shape{N: m.N, K: m.K, Format: m.Format()}, m.Bytes()}
	runtime.AddCleanup(w, d.memory.give, memory)
	return w, nil
}

// table is embeddings.
type table struct {
	device *Device
	memory *Memory
	kernel.TableBytes
}

// Shape is the number of rows and their width.
func (t *table) Shape() (rows, dim int) { return t.Rows, t.Dim }

// UploadTable copies a table of embeddings to the device.
func (d *Device) UploadTable(t kernel.TableBytes) (kernel.Table, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	memory, err := d.upload(t.Data)
	if err != nil {
		return nil, fmt.Errorf("upload a table of %d embeddings: %w", t.Rows, err)
	}
	t.Data = nil // the device has its own
	up := &table{d, memory, t}
	runtime.AddCleanup(up, d.memory.give, memory)
	return up, nil
}

// uploader copies weights beside the stream: two halves of pinned memory, of which one is
// filled while the other is copied.
type uploader struct {
	stream uintptr
	halves [2]*Host
	copied [2]*event
}

// uploadBytes is the size of half the pinned memory for weights.
const uploadBytes = 4 << 20

// open makes what an upload needs.
func (u *uploader) open(d *Device) (err error) {
	if u.stream == 0 {
		if u.stream, err = d.c.newStream(); err != nil {
			return err
		}
	}
	for i := range u.halves {
		if u.copied[i] == nil {
			if u.copied[i], err = d.c.newEvent(); err != nil {
				return err
			}
		}
		if u.halves[i] == nil {
			if u.halves[i], err = d.pinned.take(uploadBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// upload copies bytes to memory of their own, and returns when they are there: in memory
// that no queued work uses, so the stream need not wait.
func (d *Device) upload(data []byte) (*Memory, error) {
	d.uploading.Lock()
	defer d.uploading.Unlock()
	u := &d.uploader
	if err := d.Err(); err != nil {
		return nil, err
	}
	if err := u.open(d); err != nil {
		return nil, d.noticed(err)
	}
	memory, err := d.memory.fresh(len(data))
	if err != nil {
		return nil, d.noticed(err)
	}
	if err := u.copy(memory, data); err != nil {
		d.memory.give(memory)
		return nil, d.noticed(err)
	}
	return memory, nil
}

func (u *uploader) copy(memory *Memory, data []byte) error {
	for i, at := 0, 0; at < len(data); i++ {
		half, copied := u.halves[i%2], u.copied[i%2]
		if i > 1 {
			if err := copied.wait(); err != nil {
				return err
			}
		}
		n := copy(half.Bytes[:uploadBytes], data[at:])
		if err := memory.copyFrom(u.stream, at, half, 0, n); err != nil {
			return err
		}
		if err := copied.record(u.stream); err != nil {
			return err
		}
		at += n
	}
	return memory.c.call(cuStreamSynchronize, u.stream)
}
