package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a drover command that runs beside the test, as a user would start it.
type process struct {
	t           *testing.T
	cmd         *exec.Cmd
	out, errors output
	ended       chan struct{} // closed when the process is gone
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// place is where a process runs; the zero value is the test's own place.
type place struct {
	dir string   // working directory
	env []string // added to the test's environment
	via []string // command that runs the command, such as ip netns exec NAME
}

// launch starts drover until the test ends. The program is the test's own binary under
// another name: TestMain puts it into the path.
func launch(t *testing.T, at place, args ...string) *process {
	t.Helper()
	return start(t, at, append([]string{"drover"}, args...))
}

// start starts a program until the test ends.
func start(t *testing.T, at place, command []string) *process {
	t.Helper()
	command = append(append([]string{}, at.via...), command...)
	p := &process{t: t, cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = at.dir, append(os.Environ(), at.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errors
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // the exit code says it, too
	}()
	t.Cleanup(p.stop)
	return p
}

// pid is the process's id.
func (p *process) pid() int { return p.cmd.Process.Pid }

// signal sends a signal.
func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("send %v to %v: %v", s, p.cmd.Args, err)
	}
}

// wait waits for the end and returns the exit code, -1 if a signal ended the process.
func (p *process) wait(atMost time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(atMost):
		p.t.Fatalf("%v did not end within %v", p.cmd.Args, atMost)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the process if it still runs, and shows what it wrote if the test failed.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may be gone
	select {
	case <-p.ended:
	case <-time.After(5 * slack * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	if p.t.Failed() {
		p.t.Logf("%s wrote:\n%s%s", strings.Join(p.cmd.Args, " "), &p.out, &p.errors)
	}
	if strings.Contains(p.errors.String(), "DATA RACE") {
		p.t.Errorf("%v: a data race:\n%s", p.cmd.Args, &p.errors)
	}
}

// alive says whether a process runs. One that has ended may wait for its parent, which in a
// container may be nobody.
func alive(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // Linux only
	return syscall.Kill(pid, 0) == nil && !bytes.Contains(stat, []byte(") Z "))
}

// eventually waits until ok says that something is so; why tells what is missing.
func eventually(t *testing.T, atMost time.Duration, what string, ok func() (so bool, why string)) {
	t.Helper()
	deadline := time.Now().Add(atMost)
	for {
		so, why := ok()
		if so {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %s", atMost, what, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
