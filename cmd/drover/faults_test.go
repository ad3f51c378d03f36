package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// How long a request may take to end when a node is gone, and how soon all of them are answered
// again: so much that a machine that is busy with other tests does it, too. How long it takes on
// one that is not, drover bench storm and grey measure.
const (
	endsWithin     = 30 * slack * time.Second
	recoversWithin = healsWithin
)

// lost is what an error says about an expert that cannot be reached.
var lost = regexp.MustCompile(`layer \d+ expert \d+: .*node-\d`)

// TestNodeKilledWithReplicas kills a node while every expert has another copy: no
// request notices, neither the one that is being answered nor the next.
func TestNodeKilledWithReplicas(t *testing.T) {
	u := startUp(t, "--nodes", "3", "--replicas", "2")
	want := u.mustAsk(t, story)
	wantLong := tell(t, u, func() {})
	_, pid := u.node(t, 2)
	kill := func() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if got := tell(t, u, kill); !slices.Equal(got, wantLong) {
		t.Errorf("during the kill: tokens %v\nbefore: %v", got, wantLong)
	}
	got, err := u.askNow(t, story)
	if err != nil || got != want {
		t.Errorf("after the kill: %v, %q; before: %q", err, got, want)
	}
}

// tell returns the tokens of a long answer, and calls meanwhile after some of them.
func tell(t *testing.T, u *up, meanwhile func()) []int32 {
	t.Helper()
	stream, err := u.coordinator.Generate(t.Context(), longStory())
	if err != nil {
		t.Fatal(err)
	}
	const some = 20
	var tokens []int32
	for called := false; ; {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return tokens
		}
		if err != nil {
			t.Fatalf("after %d tokens: %v", len(tokens), err)
		}
		tokens = append(tokens, r.GetDelta().GetTokenIds()...)
		if !called && len(tokens) >= some {
			called = true
			meanwhile()
		}
	}
}

// askNow asks a question whose answer, or error, must come within the promised time.
func (u *up) askNow(t *testing.T, question string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*endsWithin)
	defer cancel()
	began := time.Now()
	text, err := u.ask(ctx, question)
	if took := time.Since(began); took > endsWithin {
		t.Errorf("%q ended after %v, want at most %v: %v", question, took, endsWithin, err)
	}
	return text, err
}

// returns waits until a node is ready and holds experts.
func (u *up) returns(t *testing.T, id string, not uint64) {
	t.Helper()
	eventually(t, recoversWithin, id+" is back", func() (bool, string) {
		n := u.nodes(t)[id]
		return n.GetState() == "ready" && n.GetReplicaCount() > 0 && n.GetPid() != not, n.String()
	})
}

// mustAskNow asks a question that must be answered as before within the promised time.
func (u *up) mustAskNow(t *testing.T, question, want string) {
	t.Helper()
	if got, err := u.askNow(t, question); err != nil || got != want {
		t.Errorf("%v, %q; before: %q", err, got, want)
	}
}

// TestNodeKilled kills a node that holds the only copies of its experts: the coordinator
// computes them until others do, and no request fails.
func TestNodeKilled(t *testing.T) {
	u := startUp(t, "--nodes", "3")
	want := u.mustAsk(t, story)
	wantLong := tell(t, u, func() {})
	id, pid := u.node(t, 2)
	began := time.Now()
	kill := func() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if got := tell(t, u, kill); !slices.Equal(got, wantLong) {
		t.Errorf("during the kill: tokens %v\nbefore: %v", got, wantLong)
	}
	for time.Since(began) < 3*time.Second { // beyond the end of the node's lease
		u.mustAskNow(t, story, want)
	}
	u.returns(t, id, uint64(pid))
	u.mustAskNow(t, story, want)
}

// TestAllNodesKilled kills all nodes at once: the coordinator goes on alone, and the nodes
// that are started again take over.
func TestAllNodesKilled(t *testing.T) {
	u := startUp(t, "--nodes", "2")
	want := u.mustAsk(t, story)
	wantLong := tell(t, u, func() {})
	old := map[string]uint64{}
	kill := func() {
		for id, n := range u.nodes(t) {
			old[id] = n.Pid
			if err := syscall.Kill(int(n.Pid), syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	if got := tell(t, u, kill); !slices.Equal(got, wantLong) {
		t.Errorf("during the kill: tokens %v\nbefore: %v", got, wantLong)
	}
	u.mustAskNow(t, story, want)
	rows := map[string]uint64{}
	for id, pid := range old {
		u.returns(t, id, pid)
		rows[id] = u.nodes(t)[id].RowsDispatched
	}
	eventually(t, recoversWithin, "the nodes compute again", func() (bool, string) {
		u.mustAskNow(t, story, want)
		for id, n := range u.nodes(t) {
			if n.RowsDispatched <= rows[id] {
				return false, n.String()
			}
		}
		return true, ""
	})
}

// TestNoLastResort kills a node of a coordinator that must not compute experts: requests
// wait as long as they are told to, and then say what is missing.
func TestNoLastResort(t *testing.T) {
	u := startUp(t, "--nodes", "1", "--last-resort-bytes", "0", "--expert-wait", "250ms")
	want := ""
	eventually(t, recoversWithin, "it answers", func() (bool, string) {
		got, err := u.ask(t.Context(), story) // a machine that is busy makes the only node silent, too
		want = got
		return err == nil, fmt.Sprint(err)
	})
	_, pid := u.node(t, 1)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }() // or the cluster ends slowly
	_, err := u.askNow(t, story)
	if status.Code(err) != codes.Unavailable || !lost.MatchString(err.Error()) {
		t.Errorf("%v, want UNAVAILABLE and the layer, the expert and the node", err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, recoversWithin, "answers again", func() (bool, string) {
		got, err := u.askNow(t, story)
		if err != nil {
			return false, err.Error()
		}
		return got == want, got
	})
}

// TestNodeStopped stops a node, which then neither answers nor is gone, and continues it
// when the others have taken over.
func TestNodeStopped(t *testing.T) {
	u := startUp(t, "--nodes", "3")
	want := u.mustAsk(t, story)
	id, pid := u.node(t, 2)
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }() // or the cluster ends slowly
	u.mustAskNow(t, story, want)
	t.Logf("the request after the stop was answered after %v", time.Since(began))
	eventually(t, recoversWithin, "the others hold all experts", func() (bool, string) {
		p := u.placement(t)
		held := map[string]int{}
		for _, experts := range p.Layers {
			for _, on := range experts {
				for _, node := range on {
					held[node]++
				}
			}
		}
		return held[id] == 0 && len(held) == 2, ""
	})
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	u.returns(t, id, 0)
	u.mustAskNow(t, story, want)
	if n := u.nodes(t)[id]; n.Pid != uint64(pid) {
		t.Errorf("%s has become process %d, was %d", id, n.Pid, pid)
	}
}

// TestNodeStoppedBriefly stops a node for less time than its lease: nothing is placed
// anew, and requests go on.
func TestNodeStoppedBriefly(t *testing.T) {
	u := startUp(t, "--nodes", "2")
	want := u.mustAsk(t, story)
	before, err := u.cluster.GetPlacement(t.Context(), &droverv1.GetPlacementRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, pid := u.node(t, 1)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := time.AfterFunc(300*time.Millisecond, func() {
		_ = syscall.Kill(pid, syscall.SIGCONT) // it is there: stopped
	})
	defer resumed.Stop()
	u.mustAskNow(t, story, want)
	after, err := u.cluster.GetPlacement(t.Context(), &droverv1.GetPlacementRequest{})
	if err != nil || after.Revision != before.Revision {
		t.Errorf("placement: %v, revision %d, before %d", err, after.GetRevision(), before.Revision)
	}
}

// TestNodeStaysAway kills a node that is not started again: the others take over its experts.
func TestNodeStaysAway(t *testing.T) {
	u := startUp(t, "--nodes", "3", "--replicas", "2", "--restart-after", "24h")
	want := u.mustAsk(t, story)
	id, pid := u.node(t, 2)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, recoversWithin, "the others hold two replicas of all experts", func() (bool, string) {
		if got, err := u.askNow(t, story); err != nil || got != want {
			t.Fatalf("%v, %q; before: %q", err, got, want)
		}
		for layer, experts := range u.placement(t).Layers {
			for expert, on := range experts {
				if len(on) != 2 || slices.Contains(on, id) {
					return false, fmt.Sprintf("layer %d expert %d is on %v", layer, expert, on)
				}
			}
		}
		return true, ""
	})
	if n := u.nodes(t)[id]; n != nil {
		t.Errorf("%s is still a node: %v", id, n)
	}
}
