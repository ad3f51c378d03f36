//go:build faultinject

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// injected is a cluster of three nodes of which one, node-2, does wrong what the test says.
type injected struct {
	*faulty
	t    *testing.T // in which its processes end
	r    *roles
	file string // of faults
	bad  *process
}

// startInjected starts a cluster whose coordinator gets these flags.
func startInjected(t *testing.T, args ...string) *injected {
	t.Helper()
	x := &injected{t: t, r: newRoles(t), file: filepath.Join(t.TempDir(), "faults")}
	for _, id := range []string{"node-1", "node-3"} {
		x.r.expertNode(t, place{}, id, "--short-lease", "--domain", id)
	}
	x.start()
	p, endpoint := x.r.coordinator(t, place{}, append([]string{"--grpc", "127.0.0.1:0", "--admin",
		"127.0.0.1:0", "--min-nodes", "3", "--short-lease", "--debug"}, args...)...)
	x.faulty = newFaulty(t, p, endpoint, "node-2")
	x.question = story
	x.want = x.c.mustAsk(t, story)
	return x
}

// start starts the node that misbehaves.
func (x *injected) start() {
	x.bad = x.r.expertNode(x.t, place{}, "node-2", "--short-lease", "--domain", "node-2", "--admin",
		"127.0.0.1:0", "--inject", "@"+x.file)
}

// does returns what makes the node do wrong from now on.
func (x *injected) does(faults string) func(*testing.T) {
	return func(t *testing.T) {
		if faults != "" {
			faults = "node-2:" + faults
		}
		temporary := x.file + ".new"
		if err := os.WriteFile(temporary, []byte(faults), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(temporary, x.file); err != nil {
			t.Error(err)
		}
	}
}

// restart ends the fault and starts the node again, as whoever watches processes does.
func (x *injected) restart(t *testing.T) {
	x.does("")(t)
	x.bad.signal(syscall.SIGKILL)
	x.bad.wait(10 * slack * time.Second)
	x.start()
}

// slower tells whether the node's calls take twice as long to compute as those of another one,
// since the first time that it is called.
func (x *injected) slower() func(*testing.T) (bool, string) {
	const enough = 5 // calls
	begun := false
	var calls, seconds [2]float64
	return func(t *testing.T) (bool, string) {
		var mean, n [2]float64
		for i, id := range []string{"node-1", "node-2"} {
			nowCalls := x.sum(t, `drover_node_calls_total{node="`+id+`"}`)
			now := x.sum(t, `drover_node_call_seconds_total{node="`+id+`",where="compute"}`)
			if !begun {
				calls[i], seconds[i] = nowCalls, now
			}
			n[i] = nowCalls - calls[i]
			mean[i] = (now - seconds[i]) / max(n[i], 1)
		}
		begun = true
		return n[0] >= enough && n[1] >= enough && mean[1] > 2*mean[0],
			fmt.Sprintf("%v calls of %v s each", n, mean)
	}
}

// TestInjectedFaults has one node of three misbehave, where there is another replica of each
// expert, where there is none, and where all is checked: metrics, log and readiness tell of it,
// the answers are those of a sound cluster, and all heals by itself.
func TestInjectedFaults(t *testing.T) {
	const (
		corrupt = `msg="(answers are not used|link down)".* node=node-2 .*(reason|error)=.+`
		wrong   = `msg="a node returned wrong numbers.*node=node-2 layer=\d+ expert=\d+`
		refused = `msg="experts are sent again" node=node-2 .*reason="not hosted: .+`
		stuck   = `msg="node is alive, but does not answer, and is routed around" node=node-2`
		last    = `msg="experts are computed on the coordinator itself.*reason=.+`
	)
	t.Run("two replicas", func(t *testing.T) {
		x := startInjected(t, "--replicas", "2")
		x.all(t,
			&fault{name: "corrupt", on: x.does("corrupt=0.2"), says: []string{corrupt},
				rises: []string{"drover_corrupt_frames_total", x.of("drover_node_failures_total")}},
			&fault{name: "not hosted", on: x.does("refuse=0.5"), says: []string{refused},
				rises: []string{"drover_retries_total", x.of("drover_node_failures_total")},
				shows: func(t *testing.T) (bool, string) {
					n := x.bad.metric(t, `drover_expertnode_frames_refused_total{reason="not_hosted"}`)
					return n > 0, fmt.Sprint(n, " frames are refused")
				}},
			&fault{name: "slow", on: x.does("slow=10"), shows: x.slower()},
			// Answers that come when a step is over are not measured.
			&fault{name: "late", on: x.does("delay=50ms"),
				rises: []string{"drover_hedges_total drover_probed_rows_total"}},
			&fault{name: "stuck", on: x.does("hang=1"), rises: []string{"drover_stuck_total"},
				says: []string{stuck}})
	})
	t.Run("one replica", func(t *testing.T) {
		x := startInjected(t)
		x.all(t,
			&fault{name: "corrupt", on: x.does("corrupt=0.1"), says: []string{corrupt},
				rises: []string{"drover_corrupt_frames_total", x.of("drover_node_failures_total")}},
			&fault{name: "stuck", on: x.does("hang=1"), says: []string{stuck, last},
				rises: []string{"drover_stuck_total", "drover_last_resort_experts_total"}})
	})
	t.Run("all is checked", func(t *testing.T) {
		x := startInjected(t, "--replicas", "2", "--check-fraction", "1")
		quarantined := func(t *testing.T) (bool, string) {
			n := x.c.nodes(t)
			return n["node-1"].GetState() == "ready" && n["node-2"].GetState() == "quarantined" &&
				n["node-3"].GetState() == "ready", fmt.Sprint(n)
		}
		x.all(t,
			&fault{name: "wrong now and then", on: x.does("wrong=0.05"), off: x.restart,
				rises: []string{"drover_check_mismatches_total", "drover_quarantines_total",
					`drover_nodes{state="quarantined"}`},
				says: []string{wrong}, shows: quarantined},
			&fault{name: "wrong", on: x.does("wrong=1"), off: x.restart,
				rises: []string{"drover_check_mismatches_total", "drover_quarantines_total",
					`drover_nodes{state="quarantined"}`},
				says: []string{wrong}, shows: quarantined})
	})
	t.Run("one replica, all is checked", func(t *testing.T) {
		x := startInjected(t, "--check-fraction", "1")
		x.all(t, &fault{name: "wrong", on: x.does("wrong=1"), off: x.restart,
			rises: []string{"drover_check_mismatches_total", "drover_quarantines_total",
				`drover_nodes{state="quarantined"}`}, says: []string{wrong}})
	})
}

// all checks faults that end, if nothing else is said, when nothing is done wrong any more.
func (x *injected) all(t *testing.T, faults ...*fault) {
	for _, f := range faults {
		if f.off == nil {
			f.off = x.does("")
		}
		t.Run(f.name, func(t *testing.T) { x.check(t, f) })
	}
}

// TestInjectedUp gives a cluster of drover up a fault by the environment.
func TestInjectedUp(t *testing.T) {
	sound := startUp(t, "--nodes", "2")
	want := tell(t, sound, func() {})
	t.Setenv("DROVER_INJECT", "node-2:corrupt=0.2")
	u := startUp(t, "--nodes", "2")
	eventually(t, 3*time.Minute*slack, "corrupt frames are counted", func() (bool, string) {
		if got := tell(t, u, func() {}); !slices.Equal(got, want) {
			t.Errorf("tokens %v, want %v", got, want)
		}
		return metricAt(t, u.line.Admin, "drover_corrupt_frames_total") > 0, "it is 0"
	})
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
