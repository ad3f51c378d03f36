package main

import (
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"drover/internal/limits"
	"drover/internal/role"
)

// mostThreads bounds --threads: more is a mistake on any machine there is.
const mostThreads = 1024

// threadsFlag adds --threads; when says with what it goes.
func threadsFlag(c *cobra.Command, threads *int, when string) {
	c.Flags().IntVar(threads, "threads", 0,
		when+"threads that compute (default: as many as processors may be used)")
}

// computeFlags adds --threads and --device; when says with what they go.
func computeFlags(c *cobra.Command, to *role.Compute, when string) {
	threadsFlag(c, &to.Threads, when)
	c.Flags().StringVar(&to.Device, "device", role.UsualDevice(), when+"what computes: cpu; cuda:N, "+
		"a GPU of drover devices; cuda-tensor:N, a GPU that multiplies floats on tensor cores, with "+
		"bytes of its own; or auto, the first GPU, and the CPU if there is none that works")
}

// threadsOr returns how many threads compute: those that were asked for, or the default
// for 0.
func threadsOr(threads int) (int, error) {
	if threads < 0 || threads > mostThreads {
		return 0, usagef("--threads is %d, must be 1 to %d, or 0 for as many as processors may be used",
			threads, mostThreads)
	}
	if threads == 0 {
		return limits.Processors(), nil
	}
	return threads, nil
}

// setProcessors completes the number of threads that compute, and gives the runtime room
// beside them: with none to spare, a goroutine that computes keeps network replies
// waiting for 10 ms and more (docs/notes/wire.md, section 4).
func setProcessors(threads *int) (err error) {
	if *threads, err = threadsOr(*threads); err != nil {
		return err
	}
	runtime.GOMAXPROCS(*threads + 2)
	setMemory()
	return nil
}

// setMemory has the collector work harder before the process reaches the memory limit of its
// control group, at which the kernel would end it. $GOMEMLIMIT, which the runtime obeys by
// itself, takes precedence.
func setMemory() {
	if limit := limits.MemoryLimit(); limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}
