package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Scenario is a cluster, what is asked of it and what goes wrong. The zero values of the
// options are those of a production cluster where there are such.
type Scenario struct {
	// Seed draws what the other fields do not say: latencies and the bytes to corrupt.
	Seed uint64
	// Nodes and Coordinators are how many there are at first. Replicas are those of each
	// expert.
	Nodes, Coordinators, Replicas int
	// Lanes is the number of connections from a coordinator to a node.
	Lanes int
	// Room is how many replicas each node has room for.
	Room []int
	// Local tells whether coordinators compute experts that no node does.
	Local bool
	// Check is the fraction of frames that are computed twice; negative is none.
	Check float64
	// QueueFrames bounds the frames that wait at a node.
	QueueFrames int
	// Think is how long the coordinator's own part of a step takes.
	Think time.Duration
	// Requests and Faults happen at their times.
	Requests []Request
	Faults   []Fault
}

// Request is one answer that a client asks for.
type Request struct {
	At          time.Duration
	Coordinator int
	Prompt      int           // of prompts
	GoneAfter   time.Duration // when the client goes away; 0 is never
}

// Fault is one thing that goes wrong for a while.
type Fault struct {
	Point Failpoint
	At    time.Duration
	For   time.Duration
	// Target is a node, or a coordinator, or the process whose store fails: nodes first.
	Target int
	// Count is how often, or how much.
	Count int
}

// String describes a scenario so that a person can follow it.
func (s Scenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d coordinators with %d lanes, %d nodes with room for %v of %d experts, "+
		"%d replicas, last resort %t, checks %v\n", s.Coordinators, s.Lanes, s.Nodes, s.Room,
		experts*len(moeLayers), s.Replicas, s.Local, s.Check)
	for _, r := range s.Requests {
		fmt.Fprintf(&b, "  %v: request %d at coordinator %d", r.At, r.Prompt, r.Coordinator)
		if r.GoneAfter > 0 {
			fmt.Fprintf(&b, ", whose client goes after %v", r.GoneAfter)
		}
		b.WriteByte('\n')
	}
	for _, f := range s.Faults {
		fmt.Fprintf(&b, "  %v\n", f)
	}
	return b.String()
}

// String describes a fault.
func (f Fault) String() string {
	return fmt.Sprintf("%v for %v: %s of %d, %d times", f.At, f.For, f.Point, f.Target, f.Count)
}

const (
	maxNodes        = 6
	maxCoordinators = 2
	allOfThem       = experts * 2 // replicas of a model with one of each expert
	window          = 6 * time.Second
)

// drawn are the failpoints that Draw chooses from; the others follow from these.
var drawn = []Failpoint{HoleTo, HoleFrom, HoleBoth, Delay, SlowLink, Reset, CorruptTo,
	CorruptFrom, LoseTo, LoseFrom, NodeKill, NodePowerOff, NodeGone, NodeHang, NodeSlow,
	NodeForgets, NodeOverloaded, NodeDraining, NodePanic, NodeWrong, NodeJoins, NodeLeaves,
	NodeStranger, LoadError, LoadSlow, StoreAway, StoreSlow, StoreCut, StoreRefuses, StoreLoses,
	StoreBreaks, StoreCompacted, StoreReplaced, LeaseLost, PlannerPaused, PlannerKilled,
	LoadShift, GossipLies, LocalError, ClientGone}

// judged are the failpoints of which one coordinator knows something else than the other, and
// some that they know of at different times.
var judged = []Failpoint{Apart, Apart, Apart, ApartDelay, FalseWord, FalseWord, GossipLies,
	StoreCut, NodeKill, NodeHang, LoadFull}

// Draw returns the scenario of a seed: in one of four, coordinators judge a node differently.
func Draw(seed uint64) Scenario {
	s := plain(seed)
	if rng := rand.New(rand.NewPCG(seed, 0x52)); rng.IntN(4) == 0 {
		s.quarrel(rng)
	}
	return s
}

// quarrel adds faults of one node that two coordinators see differently.
func (s *Scenario) quarrel(rng *rand.Rand) {
	if slices.ContainsFunc(s.Faults, func(f Fault) bool { return f.Point == NodeWrong }) {
		return // who of them is right is what those are about
	}
	s.Coordinators = 2
	target, at := rng.IntN(s.Nodes), time.Duration(rng.Int64N(int64(window)))
	for range 1 + rng.IntN(3) {
		f := s.fault(rng, judged[rng.IntN(len(judged))])
		f.Target, f.At = target, max(at+draw(rng, time.Millisecond, 2*time.Second)-time.Second, 0)
		if f.Point == LoadFull {
			f.For = min(f.For, 3*time.Second) // a request waits for 30 s, and attempts get seldom
		}
		s.Faults = append(s.Faults, f)
		for i := range 2 {
			s.Requests = append(s.Requests, Request{At: f.At + draw(rng, time.Millisecond, f.For),
				Coordinator: i, Prompt: rng.IntN(len(prompts))})
		}
	}
	slices.SortStableFunc(s.Requests, func(a, b Request) int { return int(a.At - b.At) })
}

// plain returns the scenario of a seed without quarrels.
func plain(seed uint64) Scenario {
	rng := rand.New(rand.NewPCG(seed, 0x51))
	s := Scenario{Seed: seed, Nodes: 1 + rng.IntN(maxNodes), Coordinators: 1, Lanes: 1,
		Local: rng.IntN(2) == 0, Check: -1, Think: 2 * time.Millisecond}
	s.Replicas = 1 + rng.IntN(min(s.Nodes, 2))
	if rng.IntN(4) == 0 {
		s.Coordinators = 2
	}
	if rng.IntN(4) == 0 {
		s.Lanes = 2
	}
	if rng.IntN(4) == 0 {
		s.QueueFrames = 1
	}
	if rng.IntN(3) == 0 {
		s.Check = 0.1
	}
	for range 1 + rng.IntN(6) {
		s.Faults = append(s.Faults, s.fault(rng, drawn[rng.IntN(len(drawn))]))
	}
	s.sane()
	s.room(rng)
	s.ask(rng)
	return s
}

// fault draws the rest of a fault.
func (s *Scenario) fault(rng *rand.Rand, p Failpoint) Fault {
	f := Fault{Point: p, At: time.Duration(rng.Int64N(int64(window))),
		For: draw(rng, 20*time.Millisecond, 10*time.Second), Target: rng.IntN(s.Nodes),
		Count: 1 + rng.IntN(4)}
	switch p {
	case StoreCut, LeaseLost, StoreRefuses, StoreLoses:
		f.Target = rng.IntN(s.Nodes + s.Coordinators)
	case PlannerPaused:
		f.For, f.Target = draw(rng, time.Second, 6*time.Second), rng.IntN(s.Coordinators)
	case PlannerKilled, LocalError, LoadShift:
		f.Target = rng.IntN(s.Coordinators)
	case NodeSlow:
		f.Count = 2 + rng.IntN(50)
	case Delay:
		f.Count = 1 + rng.IntN(100)
	}
	return f
}

// draw draws a duration, short ones as often as long ones.
func draw(rng *rand.Rand, least, most time.Duration) time.Duration {
	d := float64(least) * math.Pow(float64(most)/float64(least), rng.Float64())
	return time.Duration(d)
}

// sane removes faults that leave nobody who could compute or tell what is right.
func (s *Scenario) sane() {
	gone := map[int]bool{}
	wrong := slices.ContainsFunc(s.Faults, func(f Fault) bool { return f.Point == NodeWrong })
	if wrong {
		// Who is wrong can be told only where there is somebody to compare with.
		s.Local, s.Check = true, 1
	}
	s.Faults = slices.DeleteFunc(s.Faults, func(f Fault) bool {
		switch {
		case f.Point == NodeGone || f.Point == NodeLeaves:
			if !gone[f.Target] && len(gone) == s.Nodes-1 {
				return true
			}
			gone[f.Target] = true
		case wrong:
			return f.Point != NodeWrong && !strings.HasPrefix(string(f.Point), "store.") &&
				f.Point != PlannerPaused
		case f.Point == LoseTo || f.Point == LoseFrom:
			// TCP does not lose what is in the middle. Where it happens nonetheless and
			// nobody else can compute, the answer comes after the slow timeout.
			return !s.Local
		}
		return false
	})
}

// room draws the nodes' capacities: all that could be wanted, or little more than needed.
func (s *Scenario) room(rng *rand.Rand) {
	tight := rng.IntN(3) == 0 && !slices.ContainsFunc(s.Faults, func(f Fault) bool {
		return f.Point == NodeGone || f.Point == NodeLeaves
	})
	for range s.Nodes {
		room := allOfThem
		if tight {
			room = min((allOfThem*s.Replicas+s.Nodes-1)/s.Nodes+rng.IntN(4), allOfThem)
		}
		s.Room = append(s.Room, room)
	}
}

// ask draws the requests: most begin shortly before a fault.
func (s *Scenario) ask(rng *rand.Rand) {
	add := func(at, gone time.Duration) {
		s.Requests = append(s.Requests, Request{At: max(at, 0), Coordinator: rng.IntN(s.Coordinators),
			Prompt: rng.IntN(len(prompts)), GoneAfter: gone})
	}
	for _, f := range s.Faults {
		before := f.At - draw(rng, time.Millisecond, 60*time.Millisecond)
		if f.Point == ClientGone {
			add(before, draw(rng, time.Millisecond, 100*time.Millisecond))
		} else {
			add(before, 0)
		}
		if rng.IntN(2) == 0 {
			add(f.At+time.Duration(rng.Int64N(int64(f.For))), 0)
		}
	}
	add(draw(rng, time.Millisecond, window), 0)
	slices.SortStableFunc(s.Requests, func(a, b Request) int { return int(a.At - b.At) })
}
