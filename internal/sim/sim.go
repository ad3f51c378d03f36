// Package sim runs a whole cluster in one process and in virtual time, with faults that a
// seed draws: coordinators with their watchers, planners, routers and engines, expert nodes
// with their members, servers and hosts, all of them the real ones, over connections and a
// store that fail as they are told to.
//
// A scenario is a plain value. What happens in it follows from the seed up to the order of
// goroutines that are ready at the same virtual instant; latencies are drawn so that few
// are. S1: after each scenario all of this holds, or it has a problem:
//
//   - every request ends, with the bytes of a quiet run, whatever died meanwhile;
//   - a client that went away had a beginning of them;
//   - plans are committed by the elected planner only, with rising revisions; at the store's
//     revision of the commit each expert has a registered node that says it is ready, or had
//     none by the plan before; no node has more than it has room for;
//   - plans do not go to and fro: their changes are few for the number of faults;
//   - no node says that it has loaded what it does not hold, and no coordinator says that it
//     is ready while an expert is out of reach;
//   - at most a minute after the last fault all is well again: every node that is there is
//     used, every expert has its replicas, coordinators are ready and answer;
//   - no goroutine is left.
package sim

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	clusterName = "sim"
	// healWithin is how long after the last fault all must be well again.
	healWithin = time.Minute
	// startWithin is how long a cluster without faults may take to be ready.
	startWithin = 20 * time.Second
	resendAfter = 20 * time.Millisecond
	lookEvery   = 100 * time.Millisecond
	// apart keeps processes from doing the same at the same instant.
	apart = 1_234_567 * time.Nanosecond
)

// Outcome is what came of a scenario.
type Outcome struct {
	// Problems are the rules that were broken; none is what is wanted.
	Problems []string
	// Log says what happened when.
	Log []string
	// Fired counts the failpoints that took effect.
	Fired map[Failpoint]int
	// Healed is how long after the last fault all was well, Slowest the time of the slowest
	// request.
	Healed, Slowest time.Duration
}

// world is a running scenario.
type world struct {
	scenario Scenario
	fired    firings
	watch    observer
	store    *authority
	start    time.Time // of the bubble
	running  sync.WaitGroup
	asking   sync.WaitGroup
	pending  atomic.Int64 // requests that have not ended
	starts   int          // of coordinators that had ended
	// Tests break rules: nodes load nothing and say that they have, coordinators say that
	// they are ready.
	lazy, boasts bool

	mu        sync.Mutex // guards the fields below
	nodes     []*node
	processes []*process // nil while it has ended
	slowest   time.Duration
	problems  []string
	log       []string
}

// Run runs a scenario in a bubble of its own, within a test. It fails no test.
func Run(t *testing.T, s Scenario) Outcome { return run(t, s, nil) }

// run is Run in a world that spoil, if not nil, changes before anything starts.
func run(t *testing.T, s Scenario, spoil func(*world)) (o Outcome) {
	references() // outside of the bubble
	w := &world{scenario: s}
	w.watch.world = w
	defer func() {
		if v := recover(); v != nil {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			w.problem("%v\n%s", v, stacks)
		}
		o.Problems, o.Log, o.Fired = w.problems, w.log, w.fired.count
		o.Slowest = w.slowest
	}()
	synctest.Test(t, func(*testing.T) {
		w.start, w.store = time.Now(), newAuthority(w)
		if spoil != nil {
			spoil(w)
		}
		o.Healed = w.run()
	})
	return o
}

// run is a scenario from beginning to end.
func (w *world) run() (healed time.Duration) {
	for i := range w.scenario.Nodes {
		w.addNode(w.scenario.Room[i], false).start()
		time.Sleep(apart)
	}
	for i := range w.scenario.Coordinators {
		w.processes = append(w.processes, w.startProcess(i, fmt.Sprintf("c%d", i)))
		time.Sleep(apart)
	}
	defer w.end()
	if why := w.heal(startWithin); why != "" {
		w.problem("the cluster does not start: %s", why)
		return 0
	}
	w.say("ready")
	ctx, cancel := context.WithCancel(context.Background())
	w.running.Go(func() { w.look(ctx) })
	began := time.Now()
	for i, r := range w.scenario.Requests {
		w.pending.Add(1)
		w.asking.Go(func() {
			defer w.pending.Add(-1)
			time.Sleep(r.At)
			began := time.Now()
			w.request(i, r)
			w.took(time.Since(began))
		})
	}
	w.breakThings(began)
	w.say("the last fault is over")
	over := time.Now()
	if why := w.heal(healWithin); why != "" {
		w.problem("not well %v after the last fault: %s", healWithin, why)
	}
	healed = time.Since(over)
	for w.pending.Load() > 0 && time.Since(over) < healWithin {
		time.Sleep(lookEvery)
	}
	if n := w.pending.Load(); n > 0 {
		w.problem("%d requests do not end", n)
	} else {
		w.lastQuestions()
	}
	cancel()
	return healed
}

// lastQuestions asks each coordinator once more, now that all is well.
func (w *world) lastQuestions() {
	began := time.Now()
	for i := range w.scenario.Coordinators {
		w.request(len(w.scenario.Requests)+i, Request{Coordinator: i, Prompt: i})
	}
	if took := time.Since(began); took > 2*time.Second {
		w.problem("answers take %v although all is well", took)
	}
}

// end ends all processes and waits for what the scenario started.
func (w *world) end() {
	for _, p := range w.allProcesses() {
		if p != nil {
			p.close()
		}
	}
	w.asking.Wait()
	for _, n := range w.allNodes() {
		n.end(false)
	}
	w.running.Wait()
	// Leases of those who died tick on; nobody waits for them.
	w.store.memory.Load().SetDown(true)
}

// moment is the beginning or the end of a fault.
type moment struct {
	at    time.Duration
	fault int
	begin bool
}

// breakThings begins and ends the faults at their times.
func (w *world) breakThings(began time.Time) {
	var moments []moment
	for i, f := range w.scenario.Faults {
		moments = append(moments, moment{f.At, i, true}, moment{f.At + f.For, i, false})
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return int(a.at - b.at) })
	for _, m := range moments {
		time.Sleep(time.Until(began.Add(m.at)))
		f := w.scenario.Faults[m.fault]
		if m.begin {
			w.say("begins: %v", f)
			w.begin(f)
		} else {
			w.say("ends: %v", f)
			w.finish(f)
		}
	}
}

// look checks again and again what must always hold.
func (w *world) look(ctx context.Context) {
	for sleep(ctx, lookEvery) {
		w.watch.honest()
		for _, p := range w.allProcesses() {
			if p != nil {
				p.look(time.Now())
			}
		}
	}
}

// heal waits until all is well and says what is not when the time is over.
func (w *world) heal(within time.Duration) (why string) {
	for began := time.Now(); time.Since(began) < within; time.Sleep(lookEvery) {
		if why = w.unwell(); why == "" {
			return ""
		}
	}
	return why
}

// unwell says what is not as it is to be, or nothing.
func (w *world) unwell() string {
	for _, p := range w.allProcesses() {
		if p == nil {
			return "a coordinator is missing"
		}
		v := p.watcher.View()
		if err := p.router.Ready(); err != nil {
			return fmt.Sprintf("%s: %v", p.id, err)
		}
		if !p.ready.Load() {
			return p.id + " is not ready"
		}
		here := 0
		for _, n := range w.allNodes() {
			l := n.current()
			if l == nil || n.stranger || n.isGone() {
				continue
			}
			here++
			if v.Nodes[n.id].Epoch != l.epoch {
				return fmt.Sprintf("%s does not see life %d of %s", p.id, l.epoch, n.id)
			}
			if v.Plan.Count(n.id) == 0 {
				return fmt.Sprintf("%s: revision %d does not use %s", p.id, v.Plan.Revision, n.id)
			}
		}
		for _, layer := range moeLayers {
			for e := range experts {
				if got := len(v.Plan.On(layer, e)); got < min(w.scenario.Replicas, here) {
					return fmt.Sprintf("%s: revision %d has %d replicas of layer %d expert %d",
						p.id, v.Plan.Revision, got, layer, e)
				}
			}
		}
	}
	return ""
}

// addNode makes a node that has not started yet.
func (w *world) addNode(room int, stranger bool) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := fmt.Sprintf("n%d", len(w.nodes))
	n := &node{world: w, id: id, domain: id, capacity: int64(room) * replicaBytes(),
		stranger: stranger, link: newLink(w, "passthrough:///"+id), slow: 1}
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) allNodes() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

func (w *world) allProcesses() []*process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.processes)
}

// process returns a coordinator, the next one if that has ended, nil if all have.
func (w *world) process(index int) *process {
	all := w.allProcesses()
	for i := range all {
		if p := all[(index+i)%len(all)]; p != nil {
			return p
		}
	}
	return nil
}

// setProcess replaces a coordinator.
func (w *world) setProcess(index int, p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.processes[index] = p
}

// took notes how long a request took.
func (w *world) took(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slowest = max(w.slowest, d)
}

// say writes a line to the log.
func (w *world) say(format string, args ...any) {
	at := time.Since(w.start)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%12v  %s", at, fmt.Sprintf(format, args...)))
}

// problem notes that a rule was broken.
func (w *world) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.problems = append(w.problems, text)
	w.mu.Unlock()
	if !w.start.IsZero() {
		w.say("PROBLEM: %.300s", text)
	}
}

func (w *world) must(err error) {
	if err != nil {
		panic(err) // the options are the simulation's own
	}
}
