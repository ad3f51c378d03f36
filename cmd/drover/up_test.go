package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"drover/internal/answer"
	"drover/internal/identity"
	"drover/internal/show"
	droverv1 "drover/proto/drover/v1"
)

// TestUp follows one cluster of processes from its start to Ctrl-C.
func TestUp(t *testing.T) {
	u := startUp(t, "--nodes", "3")
	if want := 20 * slack * time.Second; u.readyIn > want {
		t.Errorf("ready after %v, want at most %v", u.readyIn, want)
	}
	if u.line.PID != u.pid() || u.line.Nodes != 3 || !strings.Contains(u.line.Etcd, "127.0.0.1:") {
		t.Errorf("printed %+v; its process is %d", u.line, u.pid())
	}
	t.Run("run", func(t *testing.T) {
		run := launch(t, place{}, "run", "--endpoint", u.line.GRPC, translate)
		code := run.wait(10 * slack * time.Second)
		if code != exitDone || run.out.String() != translated+"\n" {
			t.Errorf("exit code %d, printed %q", code, &run.out)
		}
	})
	t.Run("nodes", func(t *testing.T) { checkNodes(t, u) })
	t.Run("placement", func(t *testing.T) { checkPlacement(t, u) })
	t.Run("http", func(t *testing.T) { checkHTTP(t, u) })
	t.Run("health", func(t *testing.T) { checkHealth(t, u) })
	t.Run("reflection", func(t *testing.T) { checkReflection(t, u) })
	t.Run("streaming", func(t *testing.T) { checkStreaming(t, u) })
	t.Run("many clients", func(t *testing.T) { checkManyClients(t, u) })
	t.Run("disconnect", func(t *testing.T) { checkDisconnect(t, u) })
	t.Run("interrupt", func(t *testing.T) { checkInterrupt(t, u) })
}

func checkNodes(t *testing.T, u *up) {
	var list show.NodeList
	u.command(t, &list, "nodes")
	experts, pids := 0, map[uint64]bool{uint64(u.pid()): true}
	for _, n := range list.Nodes {
		if n.PID == 0 || pids[n.PID] || !alive(int(n.PID)) {
			t.Errorf("%s: process %d is none or that of another", n.ID, n.PID)
		}
		if n.State != "ready" || n.Bytes == 0 || n.Address == "" {
			t.Errorf("node %+v is not ready with weights", n)
		}
		pids[n.PID] = true
		experts += int(n.Experts)
	}
	if len(list.Nodes) != 3 || experts != 4*128 {
		t.Errorf("%d nodes hold %d experts, want 3 with 512", len(list.Nodes), experts)
	}
}

func checkPlacement(t *testing.T, u *up) {
	p := u.placement(t)
	nodes := u.nodes(t)
	if len(p.Layers) != 4 || p.Revision == 0 {
		t.Errorf("revision %d places %d layers, want 4", p.Revision, len(p.Layers))
	}
	for layer, experts := range p.Layers {
		if len(experts) != 128 {
			t.Errorf("layer %d: %d experts, want 128", layer, len(experts))
		}
		for expert, on := range experts {
			if len(on) != 1 || nodes[on[0]] == nil {
				t.Errorf("layer %d expert %d is on %v, want one of the nodes", layer, expert, on)
			}
		}
	}
}

func checkHTTP(t *testing.T, u *up) {
	body := []byte(`{"messages":[{"role":"user","content":"` + translate + `"}]}`)
	trust, err := identity.TrustFile(u.line.CA)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}
	r, err := c.Post("https://"+u.line.HTTP+"/v1/chat/completions", "application/json",
		bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var reply struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.NewDecoder(r.Body).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	if len(reply.Choices) != 1 || reply.Choices[0].Message.Content != translated {
		t.Errorf("%s: %+v", r.Status, reply)
	}
}

func checkHealth(t *testing.T, u *up) {
	r, err := healthv1.NewHealthClient(u.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || r.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
}

func checkReflection(t *testing.T, u *up) {
	stream, err := reflectionv1.NewServerReflectionClient(u.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, s := range r.GetListServicesResponse().GetService() {
		listed[s.Name] = true
	}
	for _, want := range []string{"drover.v1.CoordinatorService", "drover.v1.ClusterService",
		"grpc.health.v1.Health"} {
		if !listed[want] {
			t.Errorf("reflection lists %v, not %s", listed, want)
		}
	}
}

// checkStreaming wants several pieces of text before the end of the answer, and time
// between the first and the last. A client that gets no processor reads many pieces at
// once, so one of several answers that came bit by bit is enough.
func checkStreaming(t *testing.T, u *up) {
	const answers, least = 10, 5 * time.Millisecond
	longest := time.Duration(0)
	for range answers {
		if longest = max(longest, streamed(t, u)); longest >= least {
			return
		}
	}
	t.Errorf("in each of %d answers all text came within %v: it is not streamed", answers, longest)
}

// streamed asks for an answer, checks the order of its events and returns the time from
// the first piece of text to the end.
func streamed(t *testing.T, u *up) time.Duration {
	t.Helper()
	stream, err := u.coordinator.Generate(t.Context(), answer.Chat(story))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	var first, last time.Time
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", r.Event),
			"*droverv1.GenerateResponse_"))
		if last = time.Now(); first.IsZero() && r.GetDelta() != nil {
			first = last
		}
	}
	deltas := len(kinds) - 2
	if deltas < 10 || kinds[0] != "Started" || kinds[1] != "Delta" ||
		kinds[deltas+1] != "Finished" {
		t.Errorf("events %v, want Started, many Delta, Finished", kinds)
	}
	return last.Sub(first)
}

// checkManyClients has 64 clients ask at once and compares with the answers to one.
func checkManyClients(t *testing.T, u *up) {
	const clients = 64
	objects := []string{"fox", "cat", "dog", "king", "rabbit", "girl", "lion", "queen"}
	questions, want := make([]string, len(objects)), make([]string, len(objects))
	for i, object := range objects {
		questions[i] = "Tell me a story about a " + object + "."
		want[i] = u.mustAsk(t, questions[i])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*slack*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			q := i % len(questions)
			got, err := connectTo(t, u.line.GRPC).ask(ctx, questions[q])
			if err != nil || got != want[q] {
				t.Errorf("client %d: %v, %q; alone: %q", i, err, got, want[q])
			}
		})
	}
	wg.Wait()
	checkIdle(t, u)
}

// checkDisconnect ends a client in the middle of its answer.
func checkDisconnect(t *testing.T, u *up) {
	ctx, disconnect := context.WithCancel(t.Context())
	defer disconnect()
	stream, err := u.coordinator.Generate(ctx, longStory())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := u.coordinator.Describe(t.Context(), &droverv1.DescribeRequest{})
	if err != nil || d.RunningSequences == 0 || d.KvBlocksUsed == 0 {
		t.Errorf("during the answer: %v, %v", d, err)
	}
	disconnect()
	checkIdle(t, u)
}

// longStory is a request whose answer takes a while.
func longStory() *droverv1.GenerateRequest {
	r := answer.Chat(story)
	r.IgnoreEos, r.MaxTokens = true, 400
	return r
}

// checkIdle waits until no request holds anything; a canary token may come between.
func checkIdle(t *testing.T, u *up) {
	t.Helper()
	eventually(t, 2*slack*time.Second, "everything is free", func() (bool, string) {
		d, err := u.coordinator.Describe(t.Context(), &droverv1.DescribeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return d.RunningSequences == 0 && d.WaitingSequences == 0 && d.KvBlocksUsed == 0, d.String()
	})
}

// checkInterrupt sends Ctrl-C's signal: the cluster ends well and leaves nothing.
func checkInterrupt(t *testing.T, u *up) {
	pids := u.pids(t)
	if len(u.leftovers(t)) != 1 {
		t.Errorf("temporary folders: %v, want etcd's", u.leftovers(t))
	}
	u.signal(os.Interrupt)
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

// TestUpKilled kills `drover up`, which cannot clean up then: its children end.
func TestUpKilled(t *testing.T) {
	u := startUp(t, "--nodes", "2")
	pids := u.pids(t)
	u.signal(syscall.SIGKILL)
	u.wait(5 * slack * time.Second)
	for _, pid := range pids {
		eventually(t, 5*slack*time.Second, fmt.Sprintf("the end of process %d", pid),
			func() (bool, string) { return !alive(pid), "it runs" })
	}
}

// TestUpPorts starts clusters where ports are taken.
func TestUpPorts(t *testing.T) {
	for _, usual := range []string{defaultEndpoint, "127.0.0.1:8080"} {
		if l, err := net.Listen("tcp", usual); err == nil { // else another program has it
			defer l.Close()
		}
	}
	u := startUpAnywhere(t, "--nodes", "1")
	if u.line.GRPC == defaultEndpoint || u.line.HTTP == "127.0.0.1:8080" {
		t.Errorf("it serves on %+v, which is taken", u.line)
	}
	if got := u.mustAsk(t, translate); got != translated {
		t.Errorf("answered %q", got)
	}
	for _, flag := range []string{"--grpc", "--http"} {
		taken := map[string]string{"--grpc": u.line.GRPC, "--http": u.line.HTTP}[flag]
		second := launch(t, place{}, "up", "--json", flag, taken)
		code := second.wait(5 * slack * time.Second)
		if said := second.errors.String(); code != exitFailed || second.out.String() != "" ||
			!strings.Contains(said, taken) || !strings.Contains(said, "in use") {
			t.Errorf("%s %s: exit code %d, %s", flag, taken, code, said)
		}
	}
}
