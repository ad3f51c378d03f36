//go:build faultinject

package main

import (
	"slices"
	"testing"
	"time"
)

// TestInjectedFaults runs clusters in which one node misbehaves: the answers are those of a
// sound one.
func TestInjectedFaults(t *testing.T) {
	sound := startUp(t, "--nodes", "3", "--replicas", "2")
	want, wantLong := sound.mustAsk(t, story), tell(t, sound, func() {})
	const check = "--check-fraction"
	for name, tc := range map[string]struct {
		faults      string
		args        []string
		quarantined bool
	}{
		"wrong numbers, two replicas": {"wrong=1", []string{"--replicas", "2", check, "1"}, true},
		"wrong numbers, one replica":  {"wrong=1", []string{check, "1"}, true},
		"wrong now and then":          {"wrong=0.05", []string{"--replicas", "2", check, "1"}, false},
		"corrupt answers":             {"corrupt=0.2", []string{"--replicas", "2"}, false},
		"corrupt, one replica":        {"corrupt=0.1", nil, false},
		"slow":                        {"slow=10", []string{"--replicas", "2"}, false},
		"late":                        {"delay=50ms", []string{"--replicas", "2"}, false},
		"stuck":                       {"hang=300", []string{"--replicas", "2"}, false},
		"stuck, one replica":          {"hang=300", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DROVER_INJECT", "node-2:"+tc.faults)
			u := startUp(t, append([]string{"--nodes", "3"}, tc.args...)...)
			began := time.Now()
			if got := u.mustAsk(t, story); got != want {
				t.Errorf("answered %q, want %q", got, want)
			}
			if got := tell(t, u, func() {}); !slices.Equal(got, wantLong) {
				t.Errorf("tokens %v, want %v", got, wantLong)
			}
			t.Logf("answered within %v", time.Since(began))
			for id, n := range u.nodes(t) {
				if tc.quarantined && (n.State == "quarantined") != (id == "node-2") {
					t.Errorf("%s is %s", id, n.State)
				}
			}
		})
	}
}
