//go:build race

package sim

import "runtime"

const raceEnabled = true

// All timers of a bubble of testing/synctest share one context of the race detector (Go 1.26:
// bubble.timers in runtime/time.go). Where two processors fire some at once the detector crashes,
// with a SIGSEGV in one of a dozen runs. One processor finds the same races: they are judged by
// what happens before what.
func init() { runtime.GOMAXPROCS(1) }
