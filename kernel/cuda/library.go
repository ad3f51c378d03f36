//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"

	"drover/kernel"
)

// function numbers a function of a library.
type function int

// Functions of libcuda. A suffix _v2 is part of the name of the present form.
const (
	cuGetErrorName function = iota
	cuInit
	cuDriverGetVersion
	cuDeviceGetCount
	cuDeviceGet
	cuDeviceGetName
	cuDeviceGetAttribute
	cuDeviceGetPCIBusID
	cuDeviceTotalMem
	cuPrimaryRetain
	cuPrimaryRelease
	cuCtxSetCurrent
	cuMemAlloc
	cuMemFree
	cuMemHostAlloc
	cuMemFreeHost
	cuMemcpyToDevice
	cuMemcpyToHost
	cuMemset
	cuMemGetInfo
	cuStreamCreate
	cuStreamDestroy
	cuStreamSynchronize
	cuStreamWaitEvent
	cuEventCreate
	cuEventDestroy
	cuEventRecord
	cuEventSynchronize
	cuEventElapsedTime
	cuModuleLoad
	cuModuleUnload
	cuModuleFunction
	cuFunctionAttribute
	cuLaunchKernel
	cuGraphCreate
	cuGraphDestroy
	cuGraphAddKernel
	cuGraphInstantiate
	cuGraphExecDestroy
	cuGraphSetKernel
	cuGraphLaunch
)

var cudaNames = []string{
	cuGetErrorName:       "cuGetErrorName",
	cuInit:               "cuInit",
	cuDriverGetVersion:   "cuDriverGetVersion",
	cuDeviceGetCount:     "cuDeviceGetCount",
	cuDeviceGet:          "cuDeviceGet",
	cuDeviceGetName:      "cuDeviceGetName",
	cuDeviceGetAttribute: "cuDeviceGetAttribute",
	cuDeviceGetPCIBusID:  "cuDeviceGetPCIBusId",
	cuDeviceTotalMem:     "cuDeviceTotalMem_v2",
	cuPrimaryRetain:      "cuDevicePrimaryCtxRetain",
	cuPrimaryRelease:     "cuDevicePrimaryCtxRelease_v2",
	cuCtxSetCurrent:      "cuCtxSetCurrent",
	cuMemAlloc:           "cuMemAlloc_v2",
	cuMemFree:            "cuMemFree_v2",
	cuMemHostAlloc:       "cuMemHostAlloc",
	cuMemFreeHost:        "cuMemFreeHost",
	cuMemcpyToDevice:     "cuMemcpyHtoDAsync_v2",
	cuMemcpyToHost:       "cuMemcpyDtoHAsync_v2",
	cuMemset:             "cuMemsetD8Async",
	cuMemGetInfo:         "cuMemGetInfo_v2",
	cuStreamCreate:       "cuStreamCreate",
	cuStreamDestroy:      "cuStreamDestroy_v2",
	cuStreamSynchronize:  "cuStreamSynchronize",
	cuStreamWaitEvent:    "cuStreamWaitEvent",
	cuEventCreate:        "cuEventCreate",
	cuEventDestroy:       "cuEventDestroy_v2",
	cuEventRecord:        "cuEventRecord",
	cuEventSynchronize:   "cuEventSynchronize",
	cuEventElapsedTime:   "cuEventElapsedTime",
	cuModuleLoad:         "cuModuleLoadData",
	cuModuleUnload:       "cuModuleUnload",
	cuModuleFunction:     "cuModuleGetFunction",
	cuFunctionAttribute:  "cuFuncSetAttribute",
	cuLaunchKernel:       "cuLaunchKernel",
	cuGraphCreate:        "cuGraphCreate",
	cuGraphDestroy:       "cuGraphDestroy",
	cuGraphAddKernel:     "cuGraphAddKernelNode_v2",
	cuGraphInstantiate:   "cuGraphInstantiateWithFlags",
	cuGraphExecDestroy:   "cuGraphExecDestroy",
	cuGraphSetKernel:     "cuGraphExecKernelNodeSetParams_v2",
	cuGraphLaunch:        "cuGraphLaunch",
}

// Functions of NVML.
const (
	nvmlInit function = iota
	nvmlShutdown
	nvmlDriverVersion
	nvmlHandleByBus
	nvmlMemory
	nvmlTemperature
	nvmlPower
)

var nvmlNames = []string{
	nvmlInit:          "nvmlInit_v2",
	nvmlShutdown:      "nvmlShutdown",
	nvmlDriverVersion: "nvmlSystemGetDriverVersion",
	nvmlHandleByBus:   "nvmlDeviceGetHandleByPciBusId_v2",
	nvmlMemory:        "nvmlDeviceGetMemoryInfo",
	nvmlTemperature:   "nvmlDeviceGetTemperature",
	nvmlPower:         "nvmlDeviceGetPowerUsage",
}

// Libraries as the driver installs them.
const (
	cudaLibrary = "libcuda.so.1"
	nvmlLibrary = "libnvidia-ml.so.1"
)

// library is a loaded library. It stays loaded: unloading the driver is not safe.
type library struct {
	names     []string
	addresses []uintptr
}

// load loads a library and finds all its functions.
func load(file string, names []string) (*library, error) {
	handle, err := purego.Dlopen(file, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load NVIDIA's driver: %s (is the driver installed, and in a "+
			"container passed in?)", firstLine(err))
	}
	l := &library{names: names, addresses: make([]uintptr, len(names))}
	for i, name := range names {
		if l.addresses[i], err = purego.Dlsym(handle, name); err != nil {
			return nil, fmt.Errorf("load NVIDIA's driver: %s has no function %s: it is too old; "+
				"install a newer driver", file, name)
		}
	}
	return l, nil
}

// firstLine keeps messages of the dynamic linker to one line.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// call calls a function. Pointers are converted in the call's own argument list, which
// keeps what they point to alive and in place.
//
//go:uintptrescapes
func (l *library) call(f function, args ...uintptr) error {
	r, _, _ := purego.SyscallN(l.addresses[f], args...)
	if code := uint32(r); code != 0 {
		return &Error{Function: l.names[f], Code: code, Name: l.errorName(code)}
	}
	return nil
}

// errorName is libcuda's name of an error, or its number.
func (l *library) errorName(code uint32) string {
	if l.names[0] == cudaNames[cuGetErrorName] {
		var name *byte
		r, _, _ := purego.SyscallN(l.addresses[cuGetErrorName], uintptr(code),
			uintptr(unsafe.Pointer(&name)))
		if uint32(r) == 0 && name != nil {
			return cString(unsafe.Slice(name, 128))
		}
	}
	return fmt.Sprintf("error %d", code)
}

// cString is the text before the first zero byte.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// Reasons that callers tell apart, with errors.Is.
var (
	// ErrMemory means that the device's memory does not suffice.
	ErrMemory = errors.New("cuda: out of device memory")
	// ErrLost means that the device, or this process's use of it, is gone for good.
	ErrLost = errors.New("cuda: the device is lost")
	// ErrImage means that compiled kernels are damaged or not for this architecture.
	ErrImage = errors.New("cuda: no kernels for this device")
)

// Error is what a function of the driver returned.
type Error struct {
	Function, Name string
	Code           uint32
}

// Error names the function and the reason.
func (e *Error) Error() string { return e.Function + ": " + e.Name }

// Is reports whether e is an ErrMemory, kernel's too, ErrLost or ErrImage.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrMemory, kernel.ErrMemory:
		return e.Code == 2
	case ErrImage:
		// Invalid image, no binary for the device, invalid PTX, a PTX newer than the driver.
		return e.Code == 200 || e.Code == 209 || e.Code == 218 || e.Code == 222
	case ErrLost:
		switch e.Code {
		// Deinitialised, unavailable, destroyed context, ECC, NVLink, contained error;
		// 700 and more: errors of kernels, after which every call fails alike; unknown.
		case 4, 46, 709, 214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 999:
			return true
		}
	}
	return false
}
