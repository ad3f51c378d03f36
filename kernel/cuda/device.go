//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"sync"

	"drover/kernel"
)

// Built tells whether this program can use GPUs.
const Built = true

// Device computes on a GPU: a kernel.Device. Operations are queued and computed by one
// stream; Read and Sync wait. Rows are copied beside it: see streams.go. Weights have a stream
// of their own.
type Device struct {
	index   int
	kind    string
	c       *Context
	module  *Module
	kernels [kernelCount]*Kernel
	// products are the kernels of products, by format; distrusted are those that the self-test
	// found wrong, and are none of them.
	products   map[kernel.Format][]panelKernel
	distrusted []string
	rounding   uint32
	list       nodeList // of the launch that is made

	memory *pool[*Memory]
	pinned *pool[*Host]
	// scratch is memory between kernels, by use, which grows to the largest.
	scratch  [scratchCount]*Memory
	queue    queue
	graphs   graphs
	streams  streams
	staging  arena
	networks networks
	panels   []mulPanel
	plan     attendPlan

	uploading sync.Mutex // guards the field below
	uploader  uploader

	mu   sync.Mutex // guards the fields below
	err  error      // why the device is lost
	lost chan struct{}
}

var _ Accelerator = (*Device)(nil)

// OpenDevice opens a GPU by its number in List, with all kernels, to compute as Kind or as
// TensorKind, and has it multiply something whose result is known. It is to be closed, after
// everything that computes with it.
func OpenDevice(kind string, index int) (Accelerator, error) {
	if kind != Kind && kind != TensorKind {
		return nil, fmt.Errorf("open GPU %d: no devices are of the kind %q", index, kind)
	}
	c, err := Open(index)
	if err != nil {
		return nil, err
	}
	d := newDevice(c, kind, index)
	if err = d.load(); err == nil {
		err = d.selfTest()
	}
	if err != nil {
		_ = d.Close() // the first error says more
		return nil, fmt.Errorf("open GPU %d: %w", index, err)
	}
	return d, nil
}

func newDevice(c *Context, kind string, index int) *Device {
	d := &Device{index: index, kind: kind, c: c, products: productsOf(kind, c.hopper()),
		lost: make(chan struct{})}
	d.streams.now = 1
	d.memory = newPool(c.allocate, (*Memory).Free)
	d.pinned = newPool(c.AllocateHost, (*Host).Free)
	return d
}

// load loads the kernels.
func (d *Device) load() (err error) {
	if d.module, err = d.c.LoadKernels(); err != nil {
		return err
	}
	for i, name := range kernelNames {
		k := kernelID(i)
		if k.hopper() && !d.c.hopper() {
			continue
		}
		if d.kernels[k], err = d.module.Kernel(name); err != nil {
			return err
		}
		if !k.hopper() {
			continue
		}
		if err := d.kernels[k].share(sharedBytes[k]); errors.Is(err, ErrLost) {
			return fmt.Errorf("kernel %s: %w", name, err)
		} else if err != nil {
			d.withoutHopper(k)
		}
	}
	return nil
}

// Close waits for what was queued and gives all memory back. Nothing of the device may be
// used afterwards.
func (d *Device) Close() error {
	d.release()
	if d.module != nil {
		_ = d.module.Unload() // of a device that is lost nothing is to be had
	}
	return d.c.Close()
}

// release waits for what was queued and gives back all but the kernels and the context.
func (d *Device) release() {
	_ = d.waitAll() // of a device that is lost nothing is to be had
	d.graphs.close(d)
	d.closeStreams()
	d.memory.close()
	d.pinned.close()
	for _, e := range d.uploader.copied {
		if e != nil {
			_ = e.destroy() // as above
		}
	}
	if d.uploader.stream != 0 {
		_ = d.c.call(cuStreamDestroy, d.uploader.stream) // as above
	}
}

// Class names the kernel class of a mode.
func (d *Device) Class(m kernel.Mode) string { return kernel.ClassOn(d.kind, m) }

// Distrusted names the kernels that computed wrongly when the device was opened.
func (d *Device) Distrusted() []string { return d.distrusted }

// Rounding tells devices apart whose tensor cores round in other ways.
func (d *Device) Rounding() uint32 { return d.rounding }

// Multiplier names the kernel that multiplies weights of a format with so many rows.
func (d *Device) Multiplier(f kernel.Format, rows int) string {
	return kernelNames[d.panelKernelOf(f, rows, 1).kernel]
}

// MemoryInfo is how much of the device's memory is free, and how much there is.
func (d *Device) MemoryInfo() (free, total int64, err error) { return d.c.MemoryInfo() }

// Lost is closed when the device is of no more use; Err tells why.
func (d *Device) Lost() <-chan struct{} { return d.lost }

// Err is why the device is of no more use, or nil.
func (d *Device) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// fail keeps the first error of an operation, which was not done: all that follow would
// compute with what it left.
func (d *Device) fail(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = fmt.Errorf("GPU %d: %w: %w", d.index, kernel.ErrLost, err)
		close(d.lost)
	}
	return d.err
}

// noticed is err, which is kept if it means that the device is lost.
func (d *Device) noticed(err error) error {
	if errors.Is(err, ErrLost) {
		return d.fail(err)
	}
	return err
}
