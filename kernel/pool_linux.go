package kernel

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sleep puts threads to sleep by a futex, whose word counts the calls of wake.
type sleep struct {
	word atomic.Uint32
}

const (
	futexPrivate = 128 // no other process has the word
	futexWait    = 0 | futexPrivate
	futexWake    = 1 | futexPrivate
)

// turn names this moment to wait.
func (s *sleep) turn() uint32 { return s.word.Load() }

// wait sleeps until a call of wake after turn was read.
func (s *sleep) wait(turn uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.word)), futexWait,
		uintptr(turn), 0, 0, 0)
}

// wake ends up to n waits.
func (s *sleep) wake(n int) {
	s.word.Add(1)
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.word)), futexWake,
		uintptr(n), 0, 0, 0)
}

// allowedProcessors returns the processors that this process may use.
func allowedProcessors() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	var all []int
	for i := range len(set) * int(unsafe.Sizeof(set[0])) * 8 {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return all
}

// pinThread keeps the calling thread on a processor. Where that is refused it stays free to
// move, and no less correct.
func pinThread(processor int) {
	var set unix.CPUSet
	set.Set(processor)
	_ = unix.SchedSetaffinity(0, &set)
}
