package role

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"drover/internal/show"
	"drover/kernel"
	"drover/kernel/cuda"
)

// Compute says what a role computes with.
type Compute struct {
	// Device is as ParseDevice reads it. Empty means cpu.
	Device string
	// Threads is how many threads of the CPU compute. Zero means one.
	Threads int
}

// Names of devices.
const (
	deviceCPU  = "cpu"
	deviceAuto = "auto"
)

// UsualDevice is what computes unless someone says otherwise: a GPU where this program can
// use one.
func UsualDevice() string {
	if cuda.Built {
		return deviceAuto
	}
	return deviceCPU
}

// maxGPU bounds the number of a GPU in a name.
const maxGPU = 1023

// GPU is a GPU by name.
type GPU struct {
	// Kind is the kind of device that it computes as: cuda.Kind or cuda.TensorKind. It is empty
	// for no GPU.
	Kind string
	// Index is its number, as CUDA numbers them.
	Index int
}

// ParseDevice reads the name of a device: cpu; cuda:N, or cuda for cuda:0, a GPU as CUDA
// numbers it; cuda-tensor:N, the same with products of bfloat16 and e4m3 on tensor cores; or auto,
// the first GPU if there is one that works.
func ParseDevice(name string) (GPU, error) {
	switch name {
	case "", deviceCPU, deviceAuto:
		return GPU{}, nil
	case cuda.Kind, cuda.TensorKind:
		return GPU{Kind: name}, nil
	}
	kind, number, _ := strings.Cut(name, ":")
	index, err := strconv.Atoi(number)
	if kind != cuda.Kind && kind != cuda.TensorKind || err != nil || index < 0 || index > maxGPU {
		return GPU{}, fmt.Errorf("device %q is unknown: use cpu, cuda:N (see drover devices), "+
			"cuda-tensor:N or auto", name)
	}
	return GPU{kind, index}, nil
}

// fits refuses a numeric mode that promises more of rows than a device keeps.
func (g GPU) fits(m kernel.Mode) error {
	if g.Kind != cuda.TensorKind {
		return nil
	}
	for _, r := range []kernel.Role{kernel.RoleExperts, kernel.RoleAttention, kernel.RoleDense,
		kernel.RoleHead} {
		if m.Precision(r) == kernel.PrecisionExact {
			return fmt.Errorf("%s:%d multiplies rows as sums of two bfloat16, but mode %v keeps them in "+
				"float32: use mode bf16, or %s:%d", g.Kind, g.Index, m, cuda.Kind, g.Index)
		}
	}
	return nil
}

// GPUs names the devices of several processes on this machine that are to share what auto
// stands for: all GPUs in turn. It is nil where they share nothing.
func GPUs(device string) []string {
	if device != deviceAuto {
		return nil
	}
	l, err := cuda.List()
	if err != nil {
		return nil
	}
	var names []string
	for _, g := range l.GPUs {
		names = append(names, fmt.Sprintf("%s:%d", cuda.Kind, g.Index))
	}
	return names
}

// OpenDevice opens what computes in a numeric mode, until done.
func OpenDevice(c Compute, m kernel.Mode, log *slog.Logger) (d kernel.Device, done func(),
	err error) {
	var undo stack
	d, err = undo.device(c, m, log)
	return d, undo.run, err
}

// device opens what computes, until s is undone.
func (s *stack) device(c Compute, m kernel.Mode, log *slog.Logger) (kernel.Device, error) {
	gpu, err := ParseDevice(c.Device)
	if err == nil {
		err = gpu.fits(m)
	}
	if err != nil {
		return nil, err
	}
	auto := c.Device == deviceAuto
	if auto {
		gpu.Kind = cuda.Kind
	}
	if gpu.Kind == "" {
		return s.cpu(c.Threads), nil
	}
	d, err := cuda.OpenDevice(gpu.Kind, gpu.Index)
	switch {
	case err != nil && auto:
		if log != nil {
			log.Info("no GPU computes here", "reason", err)
		}
		return s.cpu(c.Threads), nil
	case err != nil:
		return nil, err
	}
	s.push(func() { _ = d.Close() }) // nothing is written; there is nothing to lose
	if wrong := d.Distrusted(); len(wrong) > 0 && log != nil {
		log.Warn("the GPU computed wrongly when it was tested: other kernels with the same bytes do "+
			"that work, more slowly", "gpu", gpu.Index, "kernels", strings.Join(wrong, ","))
	}
	return d, nil
}

// Lost tells of a device that is of no more use.
type lost struct {
	device cuda.Accelerator // nil for a CPU
}

// lossOf watches a device.
func lossOf(d kernel.Device) lost {
	a, _ := d.(cuda.Accelerator)
	return lost{a}
}

// Lost is closed when the device is of no more use; nil, so that it never is, for a CPU.
func (l lost) Lost() <-chan struct{} {
	if l.device == nil {
		return nil
	}
	return l.device.Lost()
}

// Err is why, or nil.
func (l lost) Err() error {
	if l.device == nil {
		return nil
	}
	return l.device.Err()
}

// class names the kernel class that the model is computed with.
func (m *Model) class() string {
	if m.Device == nil {
		return kernel.Class(m.Mode)
	}
	return m.Device.Class(m.Mode)
}

// deviceReserve is the memory of a GPU that computing takes beside the weights.
const deviceReserve = 256 << 20

// room is how many bytes of weights a device's memory has room for, and a name of it; 0 if
// the device has no memory of its own.
func (m *Model) room() (int64, error) {
	a, ok := m.Device.(cuda.Accelerator)
	if !ok {
		return 0, nil
	}
	free, total, err := a.MemoryInfo()
	if err != nil {
		return 0, err
	}
	room, one := free-deviceReserve, m.Source.Spec().ReplicaBytes
	if room < max(one, 1) {
		return 0, fmt.Errorf("the GPU has %s of %s free: an expert takes %s, and computing %s; use "+
			"another one, or end what else is on it", show.Bytes(uint64(free)),
			show.Bytes(uint64(total)), show.Bytes(uint64(one)), show.Bytes(deviceReserve))
	}
	return room, nil
}
