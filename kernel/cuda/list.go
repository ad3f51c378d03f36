//go:build cuda && linux

package cuda

import (
	"fmt"
	"unsafe"
)

// Attributes of a device.
const (
	attributeMultiprocessors = 16
	attributeMajor           = 75
	attributeMinor           = 76
)

// maxGPUs bounds what a driver may claim to have.
const maxGPUs = 1024

// List tells which GPUs the driver shows to this process.
func List() (Listing, error) {
	l, err := load(cudaLibrary, cudaNames)
	if err != nil {
		return Listing{}, err
	}
	var version, count int32
	if err := l.start(&version, &count); err != nil {
		return Listing{}, fmt.Errorf("list GPUs: %w", err)
	}
	r := Listing{CUDA: versionText(version), GPUs: []GPU{}}
	for i := range int(count) {
		g, err := l.describe(i)
		if err != nil {
			return Listing{}, fmt.Errorf("describe GPU %d: %w", i, err)
		}
		r.GPUs = append(r.GPUs, g)
	}
	if err := r.sense(); err != nil {
		r.Notes = append(r.Notes, "no temperatures, power or free memory: "+err.Error())
	}
	return r, nil
}

// versionText writes a version as the driver numbers it: 12090 is 12.9.
func versionText(v int32) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// start initialises libcuda and returns its version and the number of devices.
func (l *library) start(version, count *int32) error {
	if err := l.call(cuInit, 0); err != nil {
		return err
	}
	if err := l.call(cuDriverGetVersion, uintptr(unsafe.Pointer(version))); err != nil {
		return err
	}
	if err := l.call(cuDeviceGetCount, uintptr(unsafe.Pointer(count))); err != nil {
		return err
	}
	if *count < 0 || *count > maxGPUs {
		return fmt.Errorf("the driver tells of %d GPUs, must be at most %d", *count, maxGPUs)
	}
	return nil
}

// describe asks libcuda about a device.
func (l *library) describe(index int) (GPU, error) {
	g := GPU{Index: index}
	var device int32
	if err := l.call(cuDeviceGet, uintptr(unsafe.Pointer(&device)), uintptr(index)); err != nil {
		return g, err
	}
	var name [256]byte
	if err := l.call(cuDeviceGetName, uintptr(unsafe.Pointer(&name)), uintptr(len(name)),
		uintptr(device)); err != nil {
		return g, err
	}
	var bus [64]byte
	if err := l.call(cuDeviceGetPCIBusID, uintptr(unsafe.Pointer(&bus)), uintptr(len(bus)),
		uintptr(device)); err != nil {
		return g, err
	}
	var size uintptr
	if err := l.call(cuDeviceTotalMem, uintptr(unsafe.Pointer(&size)), uintptr(device)); err != nil {
		return g, err
	}
	var numbers [3]int32
	for i, a := range []uintptr{attributeMultiprocessors, attributeMajor, attributeMinor} {
		if err := l.call(cuDeviceGetAttribute, uintptr(unsafe.Pointer(&numbers[i])), a,
			uintptr(device)); err != nil {
			return g, err
		}
	}
	g.Name, g.Bus, g.MemoryBytes = cString(name[:]), cString(bus[:]), uint64(size)
	g.Multiprocessors = int(numbers[0])
	g.Architecture = fmt.Sprintf("sm_%d%d", numbers[1], numbers[2])
	return g, nil
}

// sense adds what NVML tells. GPUs are found by their bus, since NVML numbers them in
// another order and knows nothing of CUDA_VISIBLE_DEVICES.
func (r *Listing) sense() error {
	l, err := load(nvmlLibrary, nvmlNames)
	if err != nil {
		return err
	}
	if err := l.call(nvmlInit); err != nil {
		return err
	}
	defer l.call(nvmlShutdown)
	var driver [96]byte
	if err := l.call(nvmlDriverVersion, uintptr(unsafe.Pointer(&driver)),
		uintptr(len(driver))); err != nil {
		return err
	}
	r.Driver = cString(driver[:])
	for i := range r.GPUs {
		if r.GPUs[i].Sensors, err = l.sensors(r.GPUs[i].Bus); err != nil {
			return fmt.Errorf("GPU %d: %w", i, err)
		}
	}
	return nil
}

// sensors asks NVML about a device.
func (l *library) sensors(bus string) (*Sensors, error) {
	name := append([]byte(bus), 0)
	var handle uintptr
	if err := l.call(nvmlHandleByBus, uintptr(unsafe.Pointer(&name[0])),
		uintptr(unsafe.Pointer(&handle))); err != nil {
		return nil, err
	}
	var memory struct{ total, free, used uint64 }
	if err := l.call(nvmlMemory, handle, uintptr(unsafe.Pointer(&memory))); err != nil {
		return nil, err
	}
	const onDie = 0
	var celsius, milliwatts uint32
	if err := l.call(nvmlTemperature, handle, onDie, uintptr(unsafe.Pointer(&celsius))); err != nil {
		return nil, err
	}
	if err := l.call(nvmlPower, handle, uintptr(unsafe.Pointer(&milliwatts))); err != nil {
		return nil, err
	}
	return &Sensors{FreeBytes: memory.free, Celsius: celsius,
		PowerWatts: float64(milliwatts) / 1000}, nil
}
