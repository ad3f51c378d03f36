//go:build faultinject

package main

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestQuarantineEverywhere has one coordinator find a node that computes wrongly: the other,
// which checks nothing, and the planner follow; the replicas move, the answers stay the same,
// and a restart heals the node.
func TestQuarantineEverywhere(t *testing.T) {
	r := newRoles(t)
	r.expertNode(t, place{}, "one", "--short-lease", "--domain", "one")
	r.expertNode(t, place{}, "two", "--short-lease", "--domain", "two")
	liar := r.expertNode(t, place{}, "liar", "--short-lease", "--domain", "three",
		"--inject", "wrong=1")
	flags := []string{"--grpc", "127.0.0.1:0", "--replicas", "2", "--min-nodes", "3",
		"--check-fraction"}
	other, otherAt := r.coordinator(t, place{}, append(flags, "0")...)
	_, finderAt := r.coordinator(t, place{}, append(flags, "1")...)
	finder, c := connectTo(t, finderAt), connectTo(t, otherAt)
	want := finder.mustAsk(t, story)
	eventually(t, 30*slack*time.Second, "the liar is empty for both", func() (bool, string) {
		a, b := finder.nodes(t)["liar"], c.nodes(t)["liar"]
		return a.GetState() == "quarantined" && b.GetState() == "quarantined" &&
			a.GetReplicaCount() == 0 && b.GetReplicaCount() == 0, a.String() + b.String()
	})
	for range 3 {
		if got := c.mustAsk(t, story); got != want {
			t.Errorf("the other coordinator answers %q, want %q", got, want)
		}
	}
	if !strings.Contains(other.errors.String(), "returned wrong numbers") {
		t.Error("the other coordinator's log does not say why")
	}
	if !strings.Contains(liar.errors.String(), "this node is not used any more") {
		t.Error("the liar's log does not say that it is not used")
	}
	liar.signal(syscall.SIGTERM)
	if code := liar.wait(30 * slack * time.Second); code != exitDone {
		t.Errorf("liar: exit code %d", code)
	}
	r.expertNode(t, place{}, "liar", "--short-lease", "--domain", "three")
	eventually(t, 30*slack*time.Second, "the node is healed", func() (bool, string) {
		n := c.nodes(t)["liar"]
		return n.GetState() == "ready" && n.GetReplicaCount() > 100, n.String()
	})
	for _, c := range []*client{finder, c} {
		if got := c.mustAsk(t, story); got != want {
			t.Errorf("after the restart %q, want %q", got, want)
		}
	}
}
