package main

import (
	"bufio"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUpHangup closes the terminal of a cluster: it ends as by an interrupt.
func TestUpHangup(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("hangups are ignored here, as under nohup")
	}
	u := startUp(t, "--nodes", "1")
	pids := u.pids(t)
	u.signal(syscall.SIGHUP)
	if code := u.wait(10 * slack * time.Second); code != exitDone {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d of %v still runs", pid, pids)
		}
	}
	if left := u.leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUpUnread takes the reader of its output from a cluster, as in drover up | head -1:
// it goes on, and leaves nothing behind when it is interrupted.
func TestUpUnread(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	tmp := t.TempDir()
	cmd := exec.Command("drover", "up", "--nodes", "1", "--grpc", "127.0.0.1:0", "--http",
		"127.0.0.1:0", "--model", demoModel(t))
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var errors output
	cmd.Stdout, cmd.Stderr = write, &errors
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // the exit code says it, too
	}()
	t.Cleanup(p.stop)
	if first, err := bufio.NewReader(read).ReadString('\n'); err != nil ||
		!strings.HasPrefix(first, "drover serves tiny-maverick") {
		t.Errorf("the first line is %q, %v", first, err)
	}
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
		t.Errorf("it ended: %s", &errors)
	case <-time.After(time.Second): // more than it takes to print the rest
	}
	p.signal(os.Interrupt)
	if code := p.wait(10 * slack * time.Second); code != exitDone {
		t.Errorf("exit code %d, want 0", code)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
