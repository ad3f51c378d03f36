package kernel

// Task is work that is cut into pieces which can be done in any order.
type Task interface {
	// Do does piece i. thread, below the pool's Threads, says whose scratch memory
	// it may use: no two calls at a time have the same.
	Do(thread, i int)
}

// Pool runs tasks on a fixed number of threads. A nil Pool has one, its caller.
type Pool struct{}

// Threads is the number of threads, the caller of Run among them.
func (p *Pool) Threads() int { return 1 }

// Run does all n pieces of a task and returns when the last is done.
func (p *Pool) Run(n int, t Task) {
	for i := range n {
		t.Do(0, i)
	}
}
