package kernel

import (
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// allowedTask notes the processors that each thread may use; all threads take part.
type allowedTask struct {
	gatherTask
	mu      sync.Mutex // guards the field below
	allowed map[int][]int
}

func (a *allowedTask) Do(thread, i int) {
	a.gatherTask.Do(thread, i)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.allowed[thread] = allowedProcessors()
}

func TestPoolPin(t *testing.T) {
	all := allowedProcessors()
	if len(all) == 0 {
		t.Fatal("the process may use no processor")
	}
	for _, pin := range []bool{false, true} {
		const threads = 3
		p := StartPool(PoolOptions{Threads: threads, Pin: pin})
		task := &allowedTask{gatherTask: gatherTask{threads: threads}, allowed: map[int][]int{}}
		p.Run(threads, task)
		p.Close()
		for thread := range threads {
			want := all
			if pin && thread > 0 {
				want = all[thread%len(all):][:1]
			}
			if got := task.allowed[thread]; !slices.Equal(got, want) {
				t.Errorf("pin %v: thread %d may use processors %v, want %v", pin, thread, got, want)
			}
		}
	}
	if got := allowedProcessors(); !slices.Equal(got, all) {
		t.Errorf("the caller may use processors %v after a pinned pool, want %v", got, all)
	}
}

// TestAllowedProcessors checks that the set is that of the process, not all of the machine's.
func TestAllowedProcessors(t *testing.T) {
	var one unix.CPUSet
	first := allowedProcessors()[0]
	one.Set(first)
	done := make(chan []int)
	go func() {
		runtime.LockOSThread() // for good: the thread ends, as its mask is changed
		_ = unix.SchedSetaffinity(0, &one)
		done <- allowedProcessors()
	}()
	if got := <-done; !slices.Equal(got, []int{first}) {
		t.Errorf("processors %v, want only %d", got, first)
	}
}
