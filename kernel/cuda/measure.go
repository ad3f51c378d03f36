//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// timedEvent makes an event that takes the time.
func (c *Context) timedEvent() (*event, error) {
	e := &event{c: c}
	if err := c.call(cuEventCreate, uintptr(unsafe.Pointer(&e.handle)), 0); err != nil {
		return nil, err
	}
	return e, nil
}

// Time returns how long the device is busy with what do queues; nothing else may be
// queued meanwhile. It waits for what was queued before.
func (d *Device) Time(do func()) (took time.Duration, err error) {
	if err := d.Sync(); err != nil {
		return 0, err
	}
	defer func() { err = d.noticed(err) }()
	var events [2]*event
	for i := range events {
		if events[i], err = d.c.timedEvent(); err != nil {
			return 0, err
		}
		defer events[i].destroy()
	}
	if err := events[0].record(d.c.stream); err != nil {
		return 0, err
	}
	do()
	if d.submit(); d.Err() != nil {
		return 0, d.Err()
	}
	if err := events[1].record(d.c.stream); err != nil {
		return 0, err
	}
	if err := d.Sync(); err != nil {
		return 0, err
	}
	var milliseconds float32
	err = d.c.call(cuEventElapsedTime, uintptr(unsafe.Pointer(&milliseconds)), events[0].handle,
		events[1].handle)
	if err != nil {
		return 0, fmt.Errorf("take the GPU's time: %w", err)
	}
	if !(milliseconds >= 0) || milliseconds > 1e9 {
		return 0, fmt.Errorf("take the GPU's time: the driver says %v ms", milliseconds)
	}
	return time.Duration(float64(milliseconds) * float64(time.Millisecond)), nil
}

// Constants of src/measure.cu.
const (
	measureThreads = 256
	measureReads   = 16
	measureChains  = 8
	// readBlock is what a block of threads of measure_read reads.
	readBlock = measureThreads * measureReads * 16
)

const (
	// readBytes is far more than a GPU's caches hold.
	readBytes, smallReadBytes = 2 << 30, 8 << 20
	// computeTimes is how often each thread's sums are added to: some 10 ms.
	computeTimes, smallComputeTimes = 1 << 14, 1
	// computeBlocks is how many blocks of threads a multiprocessor has to compute.
	computeBlocks, smallComputeBlocks = 16, 1
)

// limitKernel is how a limit of arithmetic is measured.
type limitKernel struct {
	name string
	// ab is the two operands. A thread's sum is begin at first, and a round adds each to each
	// chain.
	ab          uint32
	begin, each float64
	// operations is what a thread does in a round, for each of its chains.
	operations float64
	floats     bool // what threads write
}

// limitKernels measure by operands that are ones. A thread's part of a warp's product of
// (16,16) by (16,8), or of integers (16,32) by (32,8), is a 32nd of it; its four sums are added
// up.
var limitKernels = map[Limit]limitKernel{
	LimitFMA:  {"measure_fma", 0x3f800000, 28, 1, 2, true},
	LimitInt8: {"measure_int8", 0x01010101, 28, 4, 8, false},
	LimitBF16: {"measure_bf16", 0x3f803f80, 4 * 28, 4 * 16, 2 * 16 * 16 * 8 / 32, true},
	LimitTensorInt8: {"measure_tensor_int8", 0x01010101, 4 * 28, 4 * 32, 2 * 16 * 32 * 8 / 32,
		false},
}

// hopperLimits are measured by products of warpgroups where those are used: of (64,16) by
// (16,64), or of integers (64,32) by (32,64), of which a thread has a 128th, 32 sums; two of them
// are a round of it. What a round is has measureChains parts, too.
var hopperLimits = map[Limit]limitKernel{
	LimitBF16: {"measure_hopper_bf16", 0x3f803f80, 32, 2 * 32 * 16 / 8,
		2 * 2 * 64 * 16 * 64 / 128 / 8, true},
	LimitTensorInt8: {"measure_hopper_int8", 0x01010101, 32, 2 * 32 * 32 / 8,
		2 * 2 * 64 * 32 * 64 / 128 / 8, false},
}

// hopperRows is the shared memory of their rows.
const hopperRows = 64 * 64

// limitKernel returns how a limit is measured on this device.
func (d *Device) limitKernel(l Limit) (k limitKernel, ok bool) {
	if slices.ContainsFunc(d.products[kernel.WeightsInt8], isHopper) {
		if k, ok = hopperLimits[l]; ok {
			return k, true
		}
	}
	k, ok = limitKernels[l]
	return k, ok
}

// Measure measures a limit once, in units of it a second.
func (d *Device) Measure(l Limit, small bool) (float64, error) {
	rate, err := d.measure(l, small)
	if err != nil {
		return 0, fmt.Errorf("measure the GPU's limit %v: %w", l, err)
	}
	return rate, nil
}

func (d *Device) measure(l Limit, small bool) (float64, error) {
	if l == LimitRead {
		return d.measureRead(small)
	}
	k, ok := d.limitKernel(l)
	if !ok {
		return 0, errors.New("there is no such limit")
	}
	var multiprocessors int32
	err := d.c.lib.call(cuDeviceGetAttribute, uintptr(unsafe.Pointer(&multiprocessors)),
		attributeMultiprocessors, d.c.device)
	if err != nil {
		return 0, d.noticed(err)
	}
	blocks, times := computeBlocks*int(multiprocessors), computeTimes
	if small {
		blocks, times = smallComputeBlocks*int(multiprocessors), smallComputeTimes
	}
	ab, err := d.Allocate(1, 4)
	if err != nil {
		return 0, err
	}
	operand := math.Float32frombits(k.ab)
	d.Write(ab, tensor.Rows{Data: []float32{operand, operand, operand, operand}, N: 1, Dim: 4})
	sums, took, err := d.timed(k.name, blocks, func(sums uint64) []uint64 {
		return []uint64{sums, d.at(ab), uint64(times)}
	})
	runtime.KeepAlive(ab) // launches know its address only
	if err != nil {
		return 0, err
	}
	want := k.begin + k.each*measureChains*float64(times)
	for _, word := range sums {
		got := float64(int32(word))
		if k.floats {
			got = float64(math.Float32frombits(word))
		}
		if got != want {
			return 0, fmt.Errorf("a thread's sum is %v, must be %v: the GPU computes wrongly", got, want)
		}
	}
	work := k.operations * measureChains * float64(times) * float64(blocks*measureThreads)
	return work / took.Seconds(), nil
}

// measureRead measures reading of memory whose bytes are all 1.
func (d *Device) measureRead(small bool) (float64, error) {
	free, _, err := d.MemoryInfo()
	if err != nil {
		return 0, d.noticed(err)
	}
	size := int(min(readBytes, free/2))
	if small {
		size = smallReadBytes
	}
	blocks := max(1, size/readBlock)
	memory, err := d.memory.take(blocks * readBlock)
	if err != nil {
		return 0, d.noticed(err)
	}
	defer d.memory.give(memory)
	err = d.c.call(cuMemset, memory.address, 1, uintptr(blocks*readBlock), d.c.stream)
	if err != nil {
		return 0, d.fail(err)
	}
	sums, took, err := d.timed("measure_read", blocks, func(sums uint64) []uint64 {
		return []uint64{sums, memory.At(0)}
	})
	if err != nil {
		return 0, err
	}
	const want = 0x01010101 * 4 * measureReads % (1 << 32)
	for _, word := range sums {
		if word != want {
			return 0, fmt.Errorf("a thread's sum is %#x, must be %#x: the GPU reads wrongly", word,
				uint32(want))
		}
	}
	return float64(blocks*readBlock) / took.Seconds(), nil
}

// timed launches a kernel twice, of which the first does not count, and returns what its
// threads wrote to their sums and how long it took. Arguments are made of the address of
// the sums.
func (d *Device) timed(name string, blocks int, arguments func(sums uint64) []uint64) (
	[]uint32, time.Duration, error) {
	k, err := d.module.Kernel(name)
	if err != nil {
		return nil, 0, d.noticed(err)
	}
	if strings.HasPrefix(name, "measure_hopper_") {
		k.sharedBytes = hopperRows
	}
	rows, err := d.Allocate(blocks, measureThreads)
	if err != nil {
		return nil, 0, err
	}
	grid, values := Grid{uint32(blocks), 1, measureThreads}, arguments(d.at(rows))
	if err := d.Sync(); err != nil { // the operands are there
		return nil, 0, err
	}
	// Beside the queue: nothing is in it.
	launch := func() {
		if err := k.Launch(grid, values...); err != nil {
			d.fail(err)
		}
	}
	launch()
	took, err := d.Time(launch)
	if err != nil {
		return nil, 0, err
	}
	if took <= 0 {
		return nil, 0, errors.New("it took no time that could be measured")
	}
	out, err := d.Read(rows)
	if err != nil {
		return nil, 0, err
	}
	words := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(out.Data))), len(out.Data))
	return words, took, nil
}
