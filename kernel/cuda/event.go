//go:build cuda && linux

package cuda

import (
	"time"
	"unsafe"
)

// event is a point in a stream's work that others wait for.
type event struct {
	c      *Context
	handle uintptr
}

// newEvent makes an event; one that is timed costs more.
func (c *Context) newEvent(timed bool) (*event, error) {
	const untimed = 2
	e, flags := &event{c: c}, uintptr(untimed)
	if timed {
		flags = 0
	}
	if err := c.call(cuEventCreate, uintptr(unsafe.Pointer(&e.handle)), flags); err != nil {
		return nil, err
	}
	return e, nil
}

// record makes e the point behind all that was queued in a stream.
func (e *event) record(stream uintptr) error { return e.c.call(cuEventRecord, e.handle, stream) }

// wait waits until the point is reached.
func (e *event) wait() error { return e.c.call(cuEventSynchronize, e.handle) }

// since is the time between two timed events, both of which were reached.
func (e *event) since(earlier *event) (time.Duration, error) {
	var milliseconds float32
	err := e.c.call(cuEventElapsedTime, uintptr(unsafe.Pointer(&milliseconds)), earlier.handle,
		e.handle)
	return time.Duration(float64(milliseconds) * float64(time.Millisecond)), err
}

func (e *event) destroy() error { return e.c.call(cuEventDestroy, e.handle) }
