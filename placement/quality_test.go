package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// skewed returns loads of experts that differ like e^(spread x), x normal, in each layer:
// with spread 1 the heaviest of 128 has about eight times the mean.
func skewed(seed uint64, layers, experts int, spread float64) [][]float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	load := grid[float64](layers, experts)
	for l := range load {
		for e := range load[l] {
			load[l][e] = math.Exp(spread * r.NormFloat64())
		}
	}
	return load
}

// held lists the experts of each node in a layer of a plan.
func held(p *Plan, l int) [][]int {
	nodes := make([][]int, len(p.NodeIDs))
	for e, on := range p.Replicas[l] {
		for _, n := range on {
			nodes[n] = append(nodes[n], e)
		}
	}
	return nodes
}

// mean is the mean over layers.
func mean(layers int, of func(l int) float64) float64 {
	sum := 0.0
	for l := range layers {
		sum += of(l)
	}
	return sum / float64(layers)
}

// ratios is the mean over layers of the fullest node's load over the mean node's.
func ratios(p *Plan, load [][]float64) float64 {
	return mean(len(load), func(l int) float64 { return ratio(load[l], held(p, l)) })
}

// setting is a cluster of equal nodes and a model.
type setting struct {
	layers, experts, nodes, hosts, slots int // slots of a layer, over all nodes
}

func (s setting) String() string {
	return fmt.Sprintf("%dx%d/nodes=%d/slots=%d", s.experts, s.layers, s.nodes, s.slots)
}

func (s setting) input() Input {
	in := Input{Experts: s.experts, ReplicaBytes: 1, Replicas: 1,
		Spare: float64(s.slots-s.experts) / float64(s.experts), Nodes: equalNodes(s.nodes)}
	for l := range s.layers {
		in.Layers = append(in.Layers, l)
	}
	for i := range in.Nodes {
		in.Nodes[i].ID = fmt.Sprintf("n%03d", i)
		// What EPLB has, and what is kept free for moves.
		room := s.slots*s.layers/s.nodes + s.layers
		in.Nodes[i].CapacityBytes = int64(room + headroom(room) + 1)
	}
	return in
}

var settings = []setting{
	{24, 128, 4, 2, 144}, {24, 128, 16, 4, 144}, {24, 128, 64, 8, 192}, {24, 128, 512, 8, 512},
	{58, 256, 32, 4, 288}, {58, 256, 144, 8, 288}, {58, 256, 512, 8, 512},
}

// TestAgainstEPLB compares plans with the lower bound and with EPLB for loads that are
// skewed a little and much: planned anew, and from a plan for even loads.
// go test ./placement -run AgainstEPLB -v prints the table of docs/placement.md.
func TestAgainstEPLB(t *testing.T) {
	for _, s := range settings {
		for _, spread := range []float64{0.5, 1} {
			t.Run(fmt.Sprintf("%v/spread=%v", s, spread), func(t *testing.T) {
				compare(t, s, skewed(7, s.layers, s.experts, spread))
			})
		}
	}
}

func compare(t *testing.T, s setting, load [][]float64) {
	in := s.input()
	in.Current, _ = next(t, in)
	in.Load = load
	before := ratios(in.Current, load)
	warm, why := next(t, in)
	in.Current = nil
	cold, _ := next(t, in)
	least := mean(s.layers, func(l int) float64 { return bound(load[l], s.nodes, s.slots) })
	global := mean(s.layers, func(l int) float64 {
		return ratio(load[l], eplb{1, 1, s.nodes, s.slots}.place(load[l]))
	})
	grouped := mean(s.layers, func(l int) float64 {
		return ratio(load[l], eplb{8, s.hosts, s.nodes, s.slots}.place(load[l]))
	})
	fromEven, anew := ratios(warm, load), ratios(cold, load)
	t.Logf("| before %.2f | bound %.2f | EPLB %.2f, hierarchical %.2f | ours anew %.2f, from even %.2f"+
		" | moved %.0f %% |", before, least, global, grouped, anew, fromEven,
		100*float64(why.Added)/float64(s.layers*s.slots))
	if anew < least-1e-9 || fromEven < least-1e-9 {
		t.Errorf("%.3f and %.3f are below the bound %.3f", anew, fromEven, least)
	}
	if most := 1.05*global + 0.01; anew > most {
		t.Errorf("planned anew %.3f, EPLB has %.3f", anew, global)
	}
	if most := max(1.1*global, 1.15); fromEven > most {
		t.Errorf("from a plan for even loads %.3f, at most %.3f", fromEven, most)
	}
}

// next plans, and goes on as long as moves wait for the next plan. Added counts all.
func next(t testing.TB, in Input) (*Plan, Explanation) {
	t.Helper()
	added := 0
	for range 100 {
		p, why, err := Next(in)
		if err != nil {
			t.Fatal(err)
		}
		added += why.Added
		if p == in.Current || !why.Deferred {
			why.Added = added
			return p, why
		}
		in.Current = p
	}
	t.Fatal("planning does not come to rest")
	return nil, Explanation{}
}

// BenchmarkNext plans anew, after the load has changed in every layer, and after one node
// was lost.
func BenchmarkNext(b *testing.B) {
	for _, s := range settings {
		in := s.input()
		even, _ := next(b, in)
		in.Load = skewed(7, s.layers, s.experts, 1)
		full, _ := next(b, in)
		fewer := in
		fewer.Current, fewer.Nodes = full, slices.Clone(in.Nodes[1:])
		for i := range fewer.Nodes {
			fewer.Nodes[i].CapacityBytes *= 2 // four nodes have no room for the loss of one
		}
		changed := in
		changed.Current = even
		for name, in := range map[string]Input{"anew": in, "load": changed, "loss": fewer} {
			b.Run(fmt.Sprintf("%v/%s", s, name), func(b *testing.B) {
				for b.Loop() {
					if _, _, err := Next(in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
