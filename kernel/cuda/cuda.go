// Package cuda computes on NVIDIA GPUs through the driver's own library, which it
// looks for at run time: no cgo, no toolkit.
//
// Only builds with -tags cuda on Linux call it, since loading a library makes a
// binary depend on the system's libc. In all others List says so.
//
// One rule holds in every kernel (K3): an element of the result belongs to one
// thread, which sums it as plain Go in package kernel does, one chain of fused
// multiply-adds over ascending inputs. So its bytes depend neither on the rows beside
// it (K1) nor on the device, and are those of a CPU. Only the bits of a NaN may differ.
// Products of floats on tensor cores are the exception: see TensorKind.
package cuda

import (
	"errors"
	"time"

	"drover/kernel"
)

// ErrNotBuilt means that this binary was built without code for GPUs.
var ErrNotBuilt = errors.New("this drover was built without CUDA: build it for Linux " +
	"with -tags cuda to use NVIDIA GPUs")

// ErrWrong means that a GPU, or its compiled kernels, computed something else than they must
// when it was opened.
var ErrWrong = errors.New("this GPU computes wrongly")

// Kind begins the names of the kernel classes of GPUs. By K3 they give a CPU's bytes, but
// a class of its own keeps models on one of the two until that was seen on each GPU.
const Kind = "cuda"

// TensorKind is that of GPUs that multiply weights of bfloat16 and e4m3 on tensor cores. Rows
// become sums of two bfloat16 first, and the order of a sum is the hardware's, so K3 does not hold
// for these products; K1 does, since a row's sums are the same in all of their kernels. So it is
// for attention over keys and values of bfloat16. All else is as of Kind.
const TensorKind = "cuda-tensor"

// Accelerator is a GPU that computes, until Close.
type Accelerator interface {
	kernel.Device
	// MemoryInfo is how much of the device's memory is free, and how much there is.
	MemoryInfo() (free, total int64, err error)
	// Distrusted names the kernels that computed wrongly when the device was opened. It does
	// without them, by slower ones with the same bytes.
	Distrusted() []string
	// Rounding tells devices of TensorKind apart whose tensor cores round floats in other ways: it
	// is made of the bytes of the self-test. It is 0 of devices of Kind, which have a CPU's.
	Rounding() uint32
	// Multiplier names the kernel that multiplies experts' weights of a format with so many rows of
	// an expert, on average.
	Multiplier(f kernel.Format, rows int) string
	// Lost is closed when the device is of no more use; Err tells why.
	Lost() <-chan struct{}
	// Err is why the device is of no more use, or nil.
	Err() error
	// Time returns how long the device is busy with what do queues; nothing else may be
	// queued meanwhile. It waits for what was queued before.
	Time(do func()) (time.Duration, error)
	// Measure measures a limit once, in units of it a second. Small does little of it, to see
	// that it works.
	Measure(l Limit, small bool) (perSecond float64, err error)
	// Close waits for what was queued and gives all memory back. Nothing of the device may be
	// used afterwards.
	Close() error
}

// Limit is something that a GPU can do so much of in a second at most.
type Limit string

const (
	// LimitRead is bytes of its memory that a kernel reads.
	LimitRead Limit = "read"
	// LimitFMA is operations on float32, two in a multiply-add.
	LimitFMA Limit = "fma"
	// LimitInt8 is operations of dot products of four 8-bit integers, eight in each.
	LimitInt8 Limit = "int8"
	// LimitBF16 is operations on bfloat16 by tensor cores, through the widest instruction that
	// all architectures from sm_80 on have (mma.sync, 16×8×16), or on Hopper through its own (wgmma,
	// 64×64×16). Newer ones have others, which reach more.
	LimitBF16 Limit = "bf16"
	// LimitTensorInt8 is operations on 8-bit integers by tensor cores, in the same way (mma.sync,
	// 16×8×32; wgmma, 64×64×32).
	LimitTensorInt8 Limit = "tensor-int8"
)

// Limits are all that Measure measures.
var Limits = []Limit{LimitRead, LimitFMA, LimitInt8, LimitBF16, LimitTensorInt8}

// Listing is what a machine's driver tells.
type Listing struct {
	// Driver is the version of the driver, empty if NVML did not tell; CUDA is the newest
	// version of CUDA that it knows.
	Driver string `json:"driver,omitempty"`
	CUDA   string `json:"cuda"`
	GPUs   []GPU  `json:"gpus"`
	// Notes say what could not be found out, and why.
	Notes []string `json:"notes,omitempty"`
}

// GPU is a device, as CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER number it.
type GPU struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
	// Architecture is the compute capability, as in sm_90.
	Architecture    string `json:"architecture"`
	Multiprocessors int    `json:"multiprocessors"`
	Bus             string `json:"bus"`
	MemoryBytes     uint64 `json:"memory_bytes"`
	// Sensors is nil if NVML did not tell.
	Sensors *Sensors `json:"sensors,omitempty"`
}

// Sensors is what NVML tells of a GPU.
type Sensors struct {
	FreeBytes  uint64  `json:"free_bytes"`
	Celsius    uint32  `json:"celsius"`
	PowerWatts float64 `json:"power_watts"`
}
