package limits

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// CPU returns the name of the processor, or the architecture where it has none.
func CPU() string {
	if name := field("/proc/cpuinfo", "model name"); name != "" {
		return name
	}
	return runtime.GOARCH
}

// Flags lists the sets of instructions of this processor that matter to kernels.
func Flags() []string {
	flags := []string{}
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx2", cpu.X86.HasAVX2}, {"fma", cpu.X86.HasFMA}, {"avx_vnni", cpu.X86.HasAVXVNNI},
		{"avx512f", cpu.X86.HasAVX512F}, {"avx512bw", cpu.X86.HasAVX512BW},
		{"avx512vl", cpu.X86.HasAVX512VL}, {"avx512_vnni", cpu.X86.HasAVX512VNNI},
		{"avx512_bf16", cpu.X86.HasAVX512BF16}, {"amx_bf16", cpu.X86.HasAMXBF16},
		{"asimd", cpu.ARM64.HasASIMD}, {"asimddp", cpu.ARM64.HasASIMDDP},
		{"i8mm", cpu.ARM64.HasI8MM}, {"sve", cpu.ARM64.HasSVE},
	} {
		if f.has {
			flags = append(flags, f.name)
		}
	}
	return flags
}

// Load returns the load average of the last minute, 0 where it is unknown.
func Load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}

// CacheBytes returns the size of the last cache before memory, 32 MiB where it is unknown.
func CacheBytes() int {
	const unknown, most = 32 << 20, 4 << 30
	text, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cache/index3/size")
	if err != nil {
		return unknown
	}
	kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(string(text)), "K"))
	if err != nil || kib < 1 || kib > most>>10 {
		return unknown
	}
	return kib << 10
}

// FreeBytes returns the memory that can be had without swapping; ok is false where it is unknown.
func FreeBytes() (bytes int64, ok bool) {
	return kibibytes(field("/proc/meminfo", "MemAvailable"))
}

// kibibytes reads a size like "12 kB".
func kibibytes(text string) (bytes int64, ok bool) {
	kib, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil || kib < 0 || kib > 1<<50 {
		return 0, false
	}
	return kib << 10, true
}

// field returns what follows a name and a colon in a file of such lines.
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		if strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// ProcessTime is the CPU time that this process has used, 0 where it is unknown.
func ProcessTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Memory is what this process holds in memory; its fields are 0 where they are unknown.
type Memory struct {
	// PeakBytes is the most that it ever held.
	PeakBytes int64 `json:"peak_bytes"`
	// AnonymousBytes is what it holds of its own, FileBytes what is mapped from files.
	AnonymousBytes int64 `json:"anonymous_bytes"`
	FileBytes      int64 `json:"file_bytes"`
}

// MemoryInUse looks how much memory this process holds.
func MemoryInUse() Memory {
	size := func(name string) int64 {
		bytes, _ := kibibytes(field("/proc/self/status", name)) // 0 where it is unknown
		return bytes
	}
	return Memory{size("VmHWM"), size("RssAnon"), size("RssFile")}
}
