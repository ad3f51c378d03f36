package limits

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadTime is a clock that stands while the calling thread, which must be locked, does not run.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic("limits: read the clock of a thread: " + err.Error()) // Linux has it
	}
	return time.Duration(t.Nano())
}
