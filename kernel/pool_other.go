//go:build !linux

package kernel

import "sync"

// sleep puts threads to sleep until a call of wake, which ends all waits.
type sleep struct {
	mu    sync.Mutex // guards the fields below
	woken sync.Cond
	wakes uint32
}

// turn names this moment to wait.
func (s *sleep) turn() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wakes
}

// wait sleeps until a call of wake after turn was read.
func (s *sleep) wait(turn uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken.L = &s.mu
	for s.wakes == turn {
		s.woken.Wait()
	}
}

// wake ends all waits.
func (s *sleep) wake(int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakes++
	s.woken.Broadcast()
}

// allowedProcessors returns none: this system does not say.
func allowedProcessors() []int { return nil }

// pinThread does nothing: this system has no way to.
func pinThread(int) {}
