//go:build cuda && linux

package cuda

import "unsafe"

// event is a point in a stream's work that others wait for.
type event struct {
	c      *Context
	handle uintptr
}

// newEvent makes an event that does not take the time.
func (c *Context) newEvent() (*event, error) {
	const untimed = 2
	e := &event{c: c}
	if err := c.call(cuEventCreate, uintptr(unsafe.Pointer(&e.handle)), untimed); err != nil {
		return nil, err
	}
	return e, nil
}

// record makes e the point behind all that was queued in a stream.
func (e *event) record(stream uintptr) error { return e.c.call(cuEventRecord, e.handle, stream) }

// wait waits until the point is reached.
func (e *event) wait() error { return e.c.call(cuEventSynchronize, e.handle) }

// before makes what is queued in a stream from now on wait for the point.
func (e *event) before(stream uintptr) error {
	return e.c.call(cuStreamWaitEvent, stream, e.handle, 0)
}

func (e *event) destroy() error { return e.c.call(cuEventDestroy, e.handle) }
