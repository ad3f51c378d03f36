package main

import "runtime"

// computeThreads is how many goroutines of this process compute at a time.
const computeThreads = 1

// setProcessors gives the runtime room beside the computing threads: with none to
// spare, a goroutine that computes keeps network replies waiting for 10 ms and more
// (docs/notes/wire.md, section 4).
func setProcessors() {
	runtime.GOMAXPROCS(max(runtime.NumCPU(), computeThreads) + 2)
}
