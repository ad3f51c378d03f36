package localcluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// child is one process that this one keeps running.
type child struct {
	name string
	args []string
	env  []string // added to this process's own
}

// nursery starts children, starts them again when they die, and ends them all.
// A child never outlives this process: its standard input is a pipe whose end it
// notices, and on Linux the kernel kills it as well.
type nursery struct {
	executable string
	log        *slog.Logger
	stderr     io.Writer
	first      time.Duration // before a child is started again
	starts     chan start
	wg         sync.WaitGroup
	cancel     context.CancelFunc
}

// start asks the starting thread for a process.
type start struct {
	cmd  *exec.Cmd
	done chan error
}

// Restart waits, doubling from the first, which is this one unless options say otherwise, to the
// last; a child that ran for longer than restartForget begins anew.
const (
	restartFirst  = 100 * time.Millisecond
	restartLast   = 5 * time.Second
	restartForget = 30 * time.Second
	// endGrace is how long a child may take to end by itself.
	endGrace = 3 * time.Second
)

func newNursery(o Options) (*nursery, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program's own file to start expert nodes: %w", err)
	}
	n := &nursery{executable: path, log: o.Log, stderr: o.Stderr, first: o.RestartAfter,
		starts: make(chan start)}
	if n.first == 0 {
		n.first = restartFirst
	}
	go n.startThread()
	return n, nil
}

// startThread starts all children from one thread that lives as long as the nursery:
// Linux ends a child with the thread that started it, not with the process.
func (n *nursery) startThread() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for s := range n.starts {
		s.done <- s.cmd.Start()
	}
}

// run starts children and keeps them running until close.
func (n *nursery) run(children []child) {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	for _, c := range children {
		n.wg.Go(func() { n.keep(ctx, c) })
	}
}

// close ends all children and waits for them.
func (n *nursery) close() {
	if n.cancel != nil {
		n.cancel()
	}
	n.wg.Wait()
	close(n.starts)
}

// keep runs one child again and again until ctx ends.
func (n *nursery) keep(ctx context.Context, c child) {
	wait := n.first
	for ctx.Err() == nil {
		began := time.Now()
		err := n.once(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > restartForget {
			wait = n.first
		}
		n.log.Warn("a process ended and is started again", "process", c.name,
			"reason", fmt.Sprint(err), "after", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, max(n.first, restartLast))
	}
}

// once runs a child until it ends or ctx does.
func (n *nursery) once(ctx context.Context, c child) error {
	cmd := exec.Command(n.executable, c.args...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stderr = n.stderr
	cmd.SysProcAttr = attributes()
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	s := start{cmd, make(chan error, 1)}
	n.starts <- s
	if err := <-s.done; err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
		_ = pipe.Close() // the other end is gone
		return err
	case <-ctx.Done():
	}
	_ = pipe.Close() // the child ends when it sees this
	select {
	case <-ended:
	case <-time.After(endGrace):
		_ = cmd.Process.Kill()
		<-ended
	}
	return ctx.Err()
}
