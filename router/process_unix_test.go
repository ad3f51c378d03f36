//go:build unix

package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"drover/expertnode"
	"drover/kernel"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
)

// nodeVariable makes the test binary a node of that name instead of running tests.
const nodeVariable = "ROUTER_TEST_NODE"

func TestMain(m *testing.M) {
	if id := os.Getenv(nodeVariable); id != "" {
		if err := runNode(id); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// runNode serves a fake, prints its address and ends with its standard input.
func runNode(id string) error {
	server, err := expertnode.NewServer(expertnode.Options{NodeID: id, Epoch: 1,
		ModelDigest: digest, Mode: kernel.BF16,
		Replicas: &fake{spec: testSpec, mode: kernel.BF16}})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g := grpc.NewServer(expertnode.ServerOptions()...)
	droverv1.RegisterExpertServiceServer(g, server)
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		g.Stop()
	}()
	return g.Serve(listener)
}

// startProcess starts a node as a process of its own.
func startProcess(t *testing.T, id string) (*os.Process, *testNode) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), nodeVariable+"="+id)
	cmd.Stderr = os.Stderr
	if _, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Process, &testNode{node: placement.Node{ID: id, Epoch: 1,
		Address: strings.TrimSpace(address)}}
}

// TestStoppedProcess stops a node with SIGSTOP while batches run, lets it go on
// and then kills another: every batch has the same bytes, and none waits long.
func TestStoppedProcess(t *testing.T) {
	first, n0 := startProcess(t, "n0")
	second, n1 := startProcess(t, "n1")
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.Lanes = 2 })
	r.Update(viewOf(testSpec, 1, 2, n0, n1))
	waitReady(t, r)
	reference := &fake{spec: testSpec, mode: kernel.BF16}
	slowest := time.Duration(0)
	batches := func(n uint64) {
		for seed := range n {
			began := time.Now()
			check(t, r, reference, batchOf(seed))
			slowest = max(slowest, time.Since(began))
		}
	}
	batches(30)
	signal(t, first, syscall.SIGSTOP)
	batches(30)
	signal(t, first, syscall.SIGCONT)
	waitReady(t, r)
	batches(30)
	signal(t, second, syscall.SIGKILL)
	batches(30)
	if slowest > 10*time.Second {
		t.Errorf("the slowest batch took %v, want less than 10 s", slowest)
	}
	t.Logf("the slowest batch took %v", slowest)
}

func signal(t *testing.T, p *os.Process, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}
