//go:build cuda && linux

package cuda

import (
	"fmt"
	"runtime"
	"unsafe"
)

// Context is one device, opened for this process, with one ordered stream. It is used
// by one goroutine at a time. Copies and launches are queued; Sync waits for them.
type Context struct {
	lib    *library
	device uintptr
	handle uintptr
	stream uintptr
	// capability is the device's compute capability, such as 9 and 0.
	capability [2]int32
}

// oldestCUDA is the version of CUDA that a driver must know to load the kernels.
const oldestCUDA = 12000

// Open opens a device by its number in List.
func Open(index int) (*Context, error) {
	l, err := load(cudaLibrary, cudaNames)
	if err != nil {
		return nil, err
	}
	var version, count, device int32
	if err := l.start(&version, &count); err != nil {
		return nil, fmt.Errorf("open GPU %d: %w", index, err)
	}
	if version < oldestCUDA {
		return nil, fmt.Errorf("open GPU %d: the driver knows CUDA %s and is too old: install one "+
			"for CUDA %s or newer", index, versionText(version), versionText(oldestCUDA))
	}
	if index < 0 || index >= int(count) {
		return nil, fmt.Errorf("open GPU %d: there are %d, numbered from 0; see drover devices",
			index, count)
	}
	if err := l.call(cuDeviceGet, uintptr(unsafe.Pointer(&device)), uintptr(index)); err != nil {
		return nil, fmt.Errorf("open GPU %d: %w", index, err)
	}
	c := &Context{lib: l, device: uintptr(device)}
	for i, a := range []uintptr{attributeMajor, attributeMinor} {
		err := l.call(cuDeviceGetAttribute, uintptr(unsafe.Pointer(&c.capability[i])), a, c.device)
		if err != nil {
			return nil, fmt.Errorf("open GPU %d: %w", index, err)
		}
	}
	if err := l.call(cuPrimaryRetain, uintptr(unsafe.Pointer(&c.handle)), c.device); err != nil {
		return nil, fmt.Errorf("open GPU %d: %w", index, err)
	}
	if c.stream, err = c.newStream(); err != nil {
		return nil, fmt.Errorf("open GPU %d: %w", index, joinRelease(err, c))
	}
	return c, nil
}

// newStream makes another ordered stream.
func (c *Context) newStream() (stream uintptr, err error) {
	const nonBlocking = 1
	err = c.call(cuStreamCreate, uintptr(unsafe.Pointer(&stream)), nonBlocking)
	return stream, err
}

// joinRelease gives the device back after an error.
func joinRelease(err error, c *Context) error {
	if release := c.lib.call(cuPrimaryRelease, c.device); release != nil {
		return fmt.Errorf("%w; then %w", err, release)
	}
	return err
}

// Close waits for what was queued and gives the device back. Memory and modules of the
// context must not be used afterwards.
func (c *Context) Close() error {
	err := c.Sync()
	if destroy := c.call(cuStreamDestroy, c.stream); err == nil {
		err = destroy
	}
	if release := c.lib.call(cuPrimaryRelease, c.device); err == nil {
		err = release
	}
	return err
}

// call calls a function with the context current: a goroutine may have changed threads.
//
//go:uintptrescapes
func (c *Context) call(f function, args ...uintptr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.lib.call(cuCtxSetCurrent, c.handle); err != nil {
		return err
	}
	return c.lib.call(f, args...)
}

// Sync waits for what was queued, and returns what went wrong in it.
func (c *Context) Sync() error { return c.call(cuStreamSynchronize, c.stream) }

// Memory is a piece of the device's memory. Free gives it back.
type Memory struct {
	c       *Context
	address uintptr
	size    int
}

// Allocate returns size bytes of zeros.
func (c *Context) Allocate(size int) (*Memory, error) {
	m, err := c.allocate(size)
	if err != nil {
		return nil, err
	}
	if err := m.clear(); err != nil {
		m.Free()
		return nil, fmt.Errorf("clear %d bytes on the GPU: %w", size, err)
	}
	return m, nil
}

// allocate returns size bytes of anything.
func (c *Context) allocate(size int) (*Memory, error) {
	if size < 1 {
		return nil, fmt.Errorf("allocate %d bytes on the GPU: must be at least one", size)
	}
	m := &Memory{c: c, size: size}
	err := c.call(cuMemAlloc, uintptr(unsafe.Pointer(&m.address)), uintptr(size))
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes on the GPU: %w", size, err)
	}
	return m, nil
}

// MemoryInfo is how much of the device's memory is free, and how much there is.
func (c *Context) MemoryInfo() (free, total int64, err error) {
	var sizes [2]uintptr
	err = c.call(cuMemGetInfo, uintptr(unsafe.Pointer(&sizes[0])),
		uintptr(unsafe.Pointer(&sizes[1])))
	if err != nil {
		return 0, 0, fmt.Errorf("ask the GPU for its free memory: %w", err)
	}
	return int64(sizes[0]), int64(sizes[1]), nil
}

// Free gives the memory back. The driver waits for kernels that use it.
func (m *Memory) Free() error { return m.c.call(cuMemFree, m.address) }

// Host is memory of the host that the device copies from and to by itself: pinned.
type Host struct {
	c *Context
	// Bytes is the memory, until Free.
	Bytes []byte
}

// AllocateHost returns size bytes of pinned memory.
func (c *Context) AllocateHost(size int) (*Host, error) {
	if size < 1 {
		return nil, fmt.Errorf("pin %d bytes for the GPU: must be at least one", size)
	}
	var p *byte
	const allContexts = 1
	err := c.call(cuMemHostAlloc, uintptr(unsafe.Pointer(&p)), uintptr(size), allContexts)
	if err != nil {
		return nil, fmt.Errorf("pin %d bytes for the GPU: %w", size, err)
	}
	return &Host{c: c, Bytes: unsafe.Slice(p, size)}, nil
}

// Free gives the memory back.
func (h *Host) Free() error {
	p := uintptr(unsafe.Pointer(unsafe.SliceData(h.Bytes)))
	h.Bytes = nil
	return h.c.call(cuMemFreeHost, p)
}

// Write queues a copy of the first size bytes of src to m from byte at on. src must
// stay as it is until Sync.
func (m *Memory) Write(at int, src *Host, size int) error {
	return m.copyFrom(m.c.stream, at, src, 0, size)
}

// Read queues a copy of size bytes of m from byte at on to dst. They are there after
// Sync.
func (m *Memory) Read(dst *Host, at, size int) error {
	return m.copyTo(m.c.stream, dst, 0, at, size)
}

// copyFrom queues a copy of size bytes of src from byte from on to m from byte at on.
func (m *Memory) copyFrom(stream uintptr, at int, src *Host, from, size int) error {
	if err := m.checkCopy(at, src, from, size); err != nil || size == 0 {
		return err
	}
	return m.c.call(cuMemcpyToDevice, m.address+uintptr(at),
		uintptr(unsafe.Pointer(&src.Bytes[from])), uintptr(size), stream)
}

// copyTo queues a copy of size bytes of m from byte at on to dst from byte to on.
func (m *Memory) copyTo(stream uintptr, dst *Host, to, at, size int) error {
	if err := m.checkCopy(at, dst, to, size); err != nil || size == 0 {
		return err
	}
	return m.c.call(cuMemcpyToHost, uintptr(unsafe.Pointer(&dst.Bytes[to])),
		m.address+uintptr(at), uintptr(size), stream)
}

func (m *Memory) checkCopy(at int, h *Host, hostAt, size int) error {
	if size < 0 || hostAt < 0 || hostAt > len(h.Bytes)-size || at < 0 || at > m.size-size {
		return fmt.Errorf("copy %d bytes between byte %d of %d of the host and byte %d of %d on the "+
			"GPU: out of range", size, hostAt, len(h.Bytes), at, m.size)
	}
	return nil
}

// clear queues zeros for all of m.
func (m *Memory) clear() error {
	return m.c.call(cuMemset, m.address, 0, uintptr(m.size), m.c.stream)
}

// Module is compiled kernels on a device.
type Module struct {
	c      *Context
	handle uintptr
}

// LoadModule loads compiled kernels: a cubin, a fat binary, or PTX that ends on a zero
// byte.
func (c *Context) LoadModule(image []byte) (*Module, error) {
	if len(image) == 0 {
		return nil, fmt.Errorf("load kernels: %w: there are no bytes", ErrImage)
	}
	m := &Module{c: c}
	err := c.call(cuModuleLoad, uintptr(unsafe.Pointer(&m.handle)),
		uintptr(unsafe.Pointer(unsafe.SliceData(image))))
	if err != nil {
		return nil, fmt.Errorf("load kernels: %w", err)
	}
	return m, nil
}

// Unload gives the module's memory back.
func (m *Module) Unload() error { return m.c.call(cuModuleUnload, m.handle) }

// Kernel is a function of a module.
type Kernel struct {
	c      *Context
	handle uintptr
	// sharedBytes is what launches ask for of shared memory, beside what the function has.
	sharedBytes int
}

// Kernel finds a function by name.
func (m *Module) Kernel(name string) (*Kernel, error) {
	k := &Kernel{c: m.c}
	text := append([]byte(name), 0)
	err := m.c.call(cuModuleFunction, uintptr(unsafe.Pointer(&k.handle)), m.handle,
		uintptr(unsafe.Pointer(&text[0])))
	if err != nil {
		return nil, fmt.Errorf("find kernel %s: %w", name, err)
	}
	return k, nil
}

// share has launches ask for so many bytes of shared memory, which may be more than the 48 KiB that
// a function gets without being told.
func (k *Kernel) share(bytes int) error {
	const maxDynamicSharedBytes = 8
	k.sharedBytes = bytes
	return k.c.call(cuFunctionAttribute, k.handle, maxDynamicSharedBytes, uintptr(bytes))
}

// Grid is how many blocks a launch has, in two directions, and threads in each block.
type Grid struct{ X, Y, Threads uint32 }

// maxArguments bounds a kernel's arguments.
const maxArguments = 16

// launchList is a kernel's arguments as the driver reads them.
type launchList struct {
	values   [maxArguments]uint64
	pointers [maxArguments]*uint64
}

// set fills the list, which is kept in place.
func (l *launchList) set(arguments []uint64) {
	copy(l.values[:], arguments)
	for i := range l.pointers {
		l.pointers[i] = &l.values[i]
	}
}

// Launch queues a kernel. Each argument is 8 bytes: an address from At, or a number that
// the kernel takes as a 64-bit integer.
func (k *Kernel) Launch(g Grid, arguments ...uint64) error {
	if len(arguments) > maxArguments {
		return fmt.Errorf("launch a kernel with %d arguments: at most %d", len(arguments), maxArguments)
	}
	return k.launch(new(nodeList), g, arguments)
}

// launch is Launch with memory for the arguments, which the driver copies before it returns.
// There may be more than the kernel takes.
func (k *Kernel) launch(n *nodeList, g Grid, arguments []uint64) error {
	// All that the driver follows by address lies in one piece of memory, which is kept in
	// place.
	var pin runtime.Pinner
	pin.Pin(n)
	defer pin.Unpin()
	n.list.set(arguments)
	return k.c.call(cuLaunchKernel, k.handle, uintptr(g.X), uintptr(g.Y), 1,
		uintptr(g.Threads), 1, 1, uintptr(k.sharedBytes), k.c.stream,
		uintptr(unsafe.Pointer(&n.list.pointers)), 0)
}

// At is the address of byte i, for an argument of a kernel.
func (m *Memory) At(i int) uint64 {
	if i < 0 || i >= m.size {
		panic(fmt.Sprintf("cuda: byte %d of %d", i, m.size))
	}
	return uint64(m.address) + uint64(i)
}
