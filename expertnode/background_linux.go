package expertnode

import (
	"runtime"
	"syscall"
)

// Background lets the calling goroutine, until it ends, have only what others leave of the
// processors: it gets a thread of its own, whose priority is low. If that is refused, it
// runs as others do.
func Background() {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		return
	}
	const lower, lowest = 10, 19
	nice := 20 - p // as Linux tells it
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, min(nice+lower, lowest))
}
