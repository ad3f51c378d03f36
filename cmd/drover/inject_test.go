//go:build faultinject

package main

import (
	"slices"
	"syscall"
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
		counter     string // that tells of it, or none
		args        []string
		quarantined bool
	}{
		"wrong numbers, two replicas": {"wrong=1", "drover_check_mismatches_total",
			[]string{"--replicas", "2", check, "1"}, true},
		"wrong numbers, one replica": {"wrong=1", "drover_quarantines_total", []string{check, "1"}, true},
		"wrong now and then":         {"wrong=0.05", "", []string{"--replicas", "2", check, "1"}, false},
		"corrupt answers":            {"corrupt=0.2", "drover_corrupt_frames_total", []string{"--replicas", "2"}, false},
		"corrupt, one replica":       {"corrupt=0.1", "drover_corrupt_frames_total", nil, false},
		"slow":                       {"slow=10", "", []string{"--replicas", "2"}, false},
		"late":                       {"delay=50ms", "", []string{"--replicas", "2"}, false},
		"stuck":                      {"hang=300", "drover_hedges_total", []string{"--replicas", "2"}, false},
		"stuck, one replica":         {"hang=300", "drover_last_resort_experts_total", nil, false},
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
			// Which node gets which rows, and so when the fault shows, depends on their speed.
			tells := func(counter string) {
				eventually(t, 2*time.Minute, counter+" rises", func() (bool, string) {
					if metricAt(t, u.line.Admin, counter) > 0 {
						return true, ""
					}
					if got := u.mustAsk(t, story); got != want {
						t.Errorf("answered %q, want %q", got, want)
					}
					return false, "it is 0"
				})
			}
			if tc.counter != "" {
				tells(tc.counter)
			}
			if tc.quarantined {
				tells(`drover_nodes{state="quarantined"}`)
			}
			for id, n := range u.nodes(t) {
				if tc.quarantined && (n.State == "quarantined") != (id == "node-2") {
					t.Errorf("%s is %s", id, n.State)
				}
			}
		})
	}
}

// TestInjectedClock starts a node again whose clock has jumped back by an hour: its epoch, the one
// thing that it takes from the clock, is smaller than in its earlier life. Answers go on, and it
// takes part when the earlier lease has ended.
func TestInjectedClock(t *testing.T) {
	r := &roles{etcd: startEtcd(t), model: demoModel(t)}
	left := r.expertNode(t, place{}, "left", "--short-lease")
	r.expertNode(t, place{}, "right", "--short-lease")
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--short-lease")
	c := connectTo(t, endpoint)
	want := c.mustAsk(t, story)
	left.signal(syscall.SIGKILL)
	left.wait(10 * slack * time.Second)
	r.expertNode(t, place{}, "left", "--short-lease", "--inject", "clock=-1h")
	rows := c.nodes(t)["left"].GetRowsDispatched()
	eventually(t, time.Minute, "left takes part again", func() (bool, string) {
		if got := c.mustAsk(t, story); got != want {
			t.Fatalf("answered %q, want %q", got, want)
		}
		n := c.nodes(t)["left"]
		return n.GetState() == "ready" && n.GetRowsDispatched() > rows, n.String()
	})
}
