//go:build !amd64

package kernel

import "golang.org/x/sys/unix"

// ticksPerMicrosecond is what ticks counts in a microsecond.
const ticksPerMicrosecond = 1000

// ticks reads a clock that never goes back.
func ticks() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it always exists
	return t.Nano()
}

// relax reads the clock too: the call into the kernel is as good as a pause.
func relax() int64 { return ticks() }
