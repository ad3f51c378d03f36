package localcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Spawned is a cluster that `drover up` runs as a process of its own, so that whoever asks or
// measures it does not compute beside it in one process. It ends with this process.
type Spawned struct {
	// GRPC is the coordinator's address, PID its process, the parent of the expert nodes'.
	GRPC string
	PID  int
	// Authority is the file of the authority of its certificate; empty if it serves plain text.
	Authority string

	cmd   *exec.Cmd
	said  tail
	input io.Closer
	ended chan struct{} // closed when the process is gone
}

// spawnGrace is how long a cluster may take to end by itself.
const spawnGrace = 10 * time.Second

// Spawn runs `drover up` on free ports with more arguments, and returns when it answers. What
// it logs goes to log, unless that is nil.
func Spawn(ctx context.Context, log io.Writer, args ...string) (*Spawned, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program's own file to start a cluster: %w", err)
	}
	s := &Spawned{ended: make(chan struct{}), cmd: exec.Command(path, append([]string{
		"up", "--json", "--with-parent", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"},
		args...)...)}
	s.cmd.Stderr, s.cmd.WaitDelay = &s.said, spawnGrace
	if log != nil {
		s.cmd.Stderr = io.MultiWriter(&s.said, log)
	}
	s.cmd.SysProcAttr = attributes()
	if s.input, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go s.wait(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start a cluster: %w", err)
	}
	if err := s.ready(ctx, out); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// wait starts the process and waits for its end on one thread: Linux ends a child with the
// thread that started it.
func (s *Spawned) wait(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := s.cmd.Start()
	started <- err
	if err == nil {
		_ = s.cmd.Wait() // why it ended is in what it said
		close(s.ended)
	}
}

// ready waits for the line that says where the cluster is.
func (s *Spawned) ready(ctx context.Context, out io.Reader) error {
	line := make(chan []byte, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadBytes('\n') // short if the process has ended
		line <- text
	}()
	select {
	case text := <-line:
		var said struct {
			GRPC, CA string
			PID      int
		}
		if err := json.Unmarshal(text, &said); err != nil {
			<-s.ended // it has closed its output
			return fmt.Errorf("start a cluster: drover up ended: %s", s.said.last())
		}
		s.GRPC, s.PID, s.Authority = said.GRPC, said.PID, said.CA
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tail is the end of what a process has written.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

const tailBytes = 4 << 10

// Write keeps the last bytes; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text); n > tailBytes {
		t.text = append(t.text[:0], t.text[n-tailBytes:]...)
	}
	return len(p), nil
}

// last is the last line that says anything.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return lines[len(lines)-1]
}

// Close ends the cluster and waits for its end.
func (s *Spawned) Close() {
	_ = s.input.Close() // the process ends when it sees this
	select {
	case <-s.ended:
	case <-time.After(spawnGrace):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}
