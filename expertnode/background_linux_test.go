package expertnode

import (
	"syscall"
	"testing"
)

// TestBackground lowers the priority of one goroutine's thread and of no other.
func TestBackground(t *testing.T) {
	nice := func() int {
		p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		if err != nil {
			t.Error(err)
		}
		return 20 - p
	}
	of := func(prepare func()) int {
		done := make(chan int)
		go func() {
			prepare()
			done <- nice()
		}()
		return <-done
	}
	usual := of(func() {})
	if got, want := of(Background), min(usual+10, 19); got != want {
		t.Errorf("in the background a thread has nice %d, want %d", got, want)
	}
	for range 100 {
		if got := of(func() {}); got != usual {
			t.Fatalf("afterwards a goroutine runs with nice %d, want %d", got, usual)
		}
	}
}
