package storm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/load"
	"drover/internal/load/loadtest"
	droverv1 "drover/proto/drover/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// fake is a cluster of three nodes with two replicas of each expert. A node that was killed is
// back after a time, as another process; tokens stand still for a while after each fault.
type fake struct {
	droverv1.ClusterServiceClient

	back, stall time.Duration
	// lie, if not nil, changes an answer's tokens or its end.
	lie func(question uint32, tokens []loadtest.Token) ([]loadtest.Token, error)

	mu      sync.Mutex // guards the fields below
	started [3]time.Time
	pids    [3]uint64
	stopped bool
	last    time.Time // fault
	signals []syscall.Signal
}

func newFake() *fake {
	return &fake{back: 2 * time.Second, stall: 80 * ms, pids: [3]uint64{100, 200, 300}}
}

func (f *fake) signal(pid int, s syscall.Signal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.pids[:], uint64(pid))
	if i < 0 {
		return fmt.Errorf("no process %d", pid)
	}
	f.signals, f.last = append(f.signals, s), time.Now()
	if s == syscall.SIGKILL {
		f.pids[i], f.started[i] = f.pids[i]+1, time.Now().Add(f.back)
	}
	f.stopped = s == syscall.SIGSTOP
	return nil
}

func (f *fake) ListNodes(
	context.Context, *droverv1.ListNodesRequest, ...grpc.CallOption,
) (*droverv1.ListNodesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &droverv1.ListNodesResponse{}
	for i, pid := range f.pids {
		state := "ready"
		if time.Now().Before(f.started[i]) {
			state = "gone"
		}
		r.Nodes = append(r.Nodes, &droverv1.NodeStatus{Id: fmt.Sprint("node-", i), Pid: pid,
			State: state, ReplicaCount: 2})
	}
	return r, nil
}

func (f *fake) GetPlacement(
	context.Context, *droverv1.GetPlacementRequest, ...grpc.CallOption,
) (*droverv1.GetPlacementResponse, error) {
	return placed("node-0 node-1", "node-1 node-2", "node-0 node-2"), nil
}

// placed is one layer's experts.
func placed(experts ...string) *droverv1.GetPlacementResponse {
	layer := &droverv1.LayerPlacement{Layer: 1}
	for _, on := range experts {
		layer.Experts = append(layer.Experts, &droverv1.ExpertReplicas{NodeIds: strings.Fields(on)})
	}
	return &droverv1.GetPlacementResponse{Revision: 1, Layers: []*droverv1.LayerPlacement{layer}}
}

// generate answers with 20 tokens, 4 ms apart, that tell the questions apart.
func (f *fake) generate(req *droverv1.GenerateRequest) ([]loadtest.Token, error) {
	var tokens []loadtest.Token
	for i := range 20 {
		tokens = append(tokens, loadtest.Token{After: 4 * ms, IDs: []int32{100*int32(req.MaxTokens) + int32(i)},
			Wait: func() {
				f.mu.Lock()
				until := f.last.Add(f.stall)
				f.mu.Unlock()
				time.Sleep(time.Until(until))
			}})
	}
	if f.lie != nil {
		return f.lie(req.MaxTokens, tokens)
	}
	return tokens, nil
}

func (f *fake) options() Options {
	o := Options{Coordinator: loadtest.Client(f.generate), Cluster: f, Signal: f.signal, Clients: 2,
		Kills: 10}
	for i := range 5 {
		o.Questions = append(o.Questions, load.Question{ID: fmt.Sprint("q", i),
			Request: &droverv1.GenerateRequest{MaxTokens: uint32(i)}})
	}
	return o
}

func (f *fake) count(s syscall.Signal) int {
	n := 0
	for _, got := range f.signals {
		if got == s {
			n++
		}
	}
	return n
}

// TestRun has a storm in which nothing breaks but time.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := f.options()
		o.Requests = 3000
		rep, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Kills != 10 || rep.Requests < 3000 || rep.Nodes != 3 || len(rep.Violations) > 0 ||
			f.count(syscall.SIGKILL) != 10 {
			t.Errorf("%s", rep.Text())
		}
		// A gap lasts from its last token before the fault until 80 ms after it; 4 are usual.
		if rep.Added.Count != 10 || rep.Added.P50 < 75 || rep.Added.Max > 80.1 || rep.Calm.Max > 0.1 ||
			rep.Between.Max > 0.1 || rep.First.Max > 80.1 || rep.FirstCalm.Max > 0.1 ||
			rep.Calm.Count != 10 {
			t.Errorf("added %+v, calm %+v, between %+v", rep.Added, rep.Calm, rep.Between)
		}
		if rep.Heal.P50 < 2000 || rep.Heal.Max > 2051 || math.Abs(rep.ITL.Quiet.P50-4) > 0.1 {
			t.Errorf("whole after %+v; ITL %+v", rep.Heal, rep.ITL)
		}
	})
}

func TestFaults(t *testing.T) {
	for fault, want := range map[Fault]map[syscall.Signal]int{
		Stop:    {syscall.SIGSTOP: 4, syscall.SIGCONT: 4, syscall.SIGKILL: 0},
		KillAll: {syscall.SIGSTOP: 0, syscall.SIGCONT: 0, syscall.SIGKILL: 12},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			o := f.options()
			o.Fault, o.Kills = fault, 4
			rep, err := Run(t.Context(), o)
			if err != nil || len(rep.Violations) > 0 || rep.Kills != 4 {
				t.Errorf("%s: %v\n%s", fault, err, rep.Text())
			}
			for s, n := range want {
				if f.count(s) != n {
					t.Errorf("%s: %d times %v, want %d", fault, f.count(s), s, n)
				}
			}
			if f.stopped {
				t.Errorf("%s: a process is left stopped", fault)
			}
		})
	}
}

// TestDuration ends a storm by its time.
func TestDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := f.options()
		o.Kills, o.Duration = 0, time.Minute
		rep, err := Run(t.Context(), o)
		if err != nil || rep.Kills < 15 || rep.Kills > 30 || rep.Seconds < 60 || rep.Seconds > 70 {
			t.Errorf("%v\n%s", err, rep.Text())
		}
	})
}

// TestViolations has answers that change, requests that fail and nodes that stay away.
func TestViolations(t *testing.T) {
	broken := status.Error(codes.Unavailable, "layer 1 expert 2: no live replica")
	for name, tc := range map[string]struct {
		change            func(f *fake)
		failed, differing bool
		want              string
	}{
		"another token": {func(f *fake) {
			f.lie = func(q uint32, tokens []loadtest.Token) ([]loadtest.Token, error) {
				if q == 3 && f.faulty() {
					tokens[7].IDs = []int32{99}
				}
				return tokens, nil
			}
		}, false, true, "differ from the quiet part's"},
		"other text": {func(f *fake) {
			f.lie = func(q uint32, tokens []loadtest.Token) ([]loadtest.Token, error) {
				if q == 3 && f.faulty() {
					tokens[7].Text = "?"
				}
				return tokens, nil
			}
		}, false, true, "differ from the quiet part's"},
		"right, then an error": {func(f *fake) {
			f.lie = func(q uint32, tokens []loadtest.Token) ([]loadtest.Token, error) {
				if q == 3 && f.faulty() {
					return tokens[:7], broken
				}
				return tokens, nil
			}
		}, true, false, "requests failed"},
		"wrong, then an error": {func(f *fake) {
			f.lie = func(q uint32, tokens []loadtest.Token) ([]loadtest.Token, error) {
				if q == 3 && f.faulty() {
					return []loadtest.Token{{IDs: []int32{99}}}, broken
				}
				return tokens, nil
			}
		}, true, true, "requests failed"},
		"a node stays away": {func(f *fake) { f.back = time.Hour }, false, false, "is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				tc.change(f)
				rep, err := Run(t.Context(), f.options())
				if err != nil {
					t.Fatal(err)
				}
				if (rep.Failed > 0) != tc.failed || (rep.Differing > 0) != tc.differing ||
					!strings.Contains(strings.Join(rep.Violations, "; "), tc.want) {
					t.Errorf("%d failed, %d differing, %v", rep.Failed, rep.Differing, rep.Violations)
				}
				if n := len(rep.Failures); tc.failed && (n == 0 || n > maxTold || rep.Failures[0].Question != "q3") {
					t.Errorf("failures %+v", rep.Failures)
				}
				if n := len(rep.Differences); tc.differing && (n == 0 || rep.Differences[0].Question != "q3") {
					t.Errorf("differences %+v", rep.Differences)
				}
				if !strings.Contains(rep.Text(), "VIOLATION") {
					t.Error("the text says nothing of it")
				}
			})
		})
	}
}

func (f *fake) faulty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.last.IsZero()
}

// TestQuietViolation has a coordinator that is wrong in quiet times, or fails there.
func TestQuietViolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var mu sync.Mutex
		calls := int32(0)
		f.lie = func(_ uint32, tokens []loadtest.Token) ([]loadtest.Token, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			tokens[0].IDs = []int32{calls}
			return tokens, nil
		}
		rep, err := Run(t.Context(), f.options())
		if err != nil || !strings.Contains(strings.Join(rep.Violations, ";"), "of the quiet part differ") {
			t.Errorf("%v, %v", err, rep.Violations)
		}
		refused := status.Error(codes.ResourceExhausted, "full")
		f.lie = func(uint32, []loadtest.Token) ([]loadtest.Token, error) { return nil, refused }
		if _, err := Run(t.Context(), f.options()); err == nil || !strings.Contains(err.Error(), "full") {
			t.Errorf("no answers at all: %v", err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, after := range []time.Duration{time.Second, 20 * time.Second} {
			f := newFake()
			ctx, cancel := context.WithTimeout(t.Context(), after)
			o := f.options()
			o.Kills = 1000
			if _, err := Run(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v", after, err)
			}
			cancel()
		}
	})
}

func TestOptions(t *testing.T) {
	many := make([]load.Question, maxQuestions+1)
	for name, o := range map[string]Options{
		"no end":    {},
		"fault":     {Kills: 1, Fault: "bless"},
		"clients":   {Kills: 1, Clients: maxClients + 1},
		"questions": {Kills: 1, Questions: many},
		"pause":     {Kills: 1, Pause: -1},
	} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMissing(t *testing.T) {
	node := func(id string, pid uint64, state string) *droverv1.NodeStatus {
		return &droverv1.NodeStatus{Id: id, Pid: pid, State: state, ReplicaCount: 1}
	}
	a, b := node("a", 1, "ready"), node("b", 2, "ready")
	for name, tc := range map[string]struct {
		nodes  []*droverv1.NodeStatus
		placed *droverv1.GetPlacementResponse
		want   string
	}{
		"whole":         {[]*droverv1.NodeStatus{a, b}, placed("a b", "b a"), ""},
		"one each":      {[]*droverv1.NodeStatus{a, b}, placed("a", "b"), ""},
		"killed":        {[]*droverv1.NodeStatus{a, node("c", 7, "ready")}, placed("a"), "c has not come back"},
		"loading":       {[]*droverv1.NodeStatus{a, node("c", 8, "loading")}, placed("a"), "c is loading"},
		"elsewhere":     {[]*droverv1.NodeStatus{a, node("c", 0, "ready")}, placed("a"), "no process"},
		"one is lost":   {[]*droverv1.NodeStatus{a, b}, placed("a b", "b"), "expert 1 has 1 replicas"},
		"none":          {[]*droverv1.NodeStatus{a, b}, placed(""), "expert 0 has 0 replicas"},
		"on a stranger": {[]*droverv1.NodeStatus{a, b}, placed("a z"), "is on z, which is not ready"},
		"nothing":       {nil, placed("a"), "no nodes"},
	} {
		got := missing(tc.nodes, tc.placed, map[uint64]bool{7: true})
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestWindows(t *testing.T) {
	at := func(millis int) time.Time { return time.UnixMilli(int64(millis)) }
	w := windows{length: time.Second}
	w.add(at(0), at(5000)) // before all faults: nobody's
	w.start(at(10_000), false)
	w.add(at(9_990), at(10_010)) // ends in the window
	w.add(at(10_500), at(10_560))
	w.add(at(10_950), at(11_050)) // begins in it
	w.add(at(11_100), at(11_130)) // is behind it
	w.start(at(12_000), true)
	w.add(at(11_950), at(12_020)) // begins behind the one window and ends in the other
	w.start(at(12_100), false)    // cuts the window off
	w.add(at(12_050), at(12_150))
	w.add(at(8_000), at(8_400))   // comes late, and is before all
	w.add(at(10_700), at(10_710)) // comes late
	w.start(at(20_000), false)
	var got [][2]time.Duration
	for _, s := range w.spans {
		got = append(got, [2]time.Duration{s.worst, s.rest})
	}
	want := [][2]time.Duration{{100 * ms, 30 * ms}, {70 * ms, -1}, {100 * ms, -1}, {-1, -1}}
	if !slices.Equal(got, want) {
		t.Errorf("worst and rest %v, want %v", got, want)
	}
	faults, calm, between := w.worst(40 * ms)
	if !slices.Equal(faults, []time.Duration{60 * ms, 60 * ms}) ||
		!slices.Equal(calm, []time.Duration{30 * ms}) || !slices.Equal(between, []time.Duration{0}) {
		t.Errorf("faults %v, calm %v, between %v", faults, calm, between)
	}
	if since := w.sinceFault(at(13_000)); since != 900*ms {
		t.Errorf("since the last fault %v", since)
	}
}

func TestMemory(t *testing.T) {
	w := &watched{}
	began := time.Unix(1000, 0)
	for i := range 101 {
		// 2 MiB a minute, after a first minute with a leap.
		mib := 50 + float64(max(0, i-10))/30
		w.add(sample{began.Add(time.Duration(i) * time.Second), mib, 10 + i/100})
	}
	m := w.report(began.Add(-1))
	if m.Samples != 101 || m.First != 50 || m.Last != 53 || m.Largest != 53 || m.ThreadsLast != 11 ||
		math.Abs(m.PerMinute-2) > 1e-9 {
		t.Errorf("%+v", m)
	}
	if m := w.report(began.Add(time.Hour)); m != nil {
		t.Errorf("of no samples: %+v", m)
	}
	for i := range 2 * maxSamples {
		w.add(sample{at: began.Add(time.Duration(i))})
	}
	if len(w.samples) > maxSamples {
		t.Errorf("%d samples are kept", len(w.samples))
	}
	r := Report{Memory: m, Seconds: 300}
	r.judge(1.9)
	if len(r.Violations) != 1 {
		t.Errorf("violations %v", r.Violations)
	}
	r = Report{Memory: m, Seconds: 299}
	if r.judge(1.9); len(r.Violations) > 0 {
		t.Errorf("a short storm: %v", r.Violations)
	}
}
