package placement

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const replicaBytes = 100

func drawInput(t *rapid.T) Input {
	in := Input{
		Experts: rapid.IntRange(1, 12).Draw(t, "experts"), ReplicaBytes: replicaBytes,
		Replicas: rapid.IntRange(1, 3).Draw(t, "replicas"),
	}
	for l := range rapid.IntRange(1, 4).Draw(t, "layers") {
		in.Layers = append(in.Layers, 3*l)
	}
	if rapid.Bool().Draw(t, "loaded") {
		for range in.Layers {
			in.Load = append(in.Load, rapid.SliceOfN(rapid.Float64Range(0, 1e6), in.Experts,
				in.Experts).Draw(t, "load"))
		}
	}
	in.Nodes = drawNodes(t, len(in.Layers)*in.Experts)
	return in
}

func drawNodes(t *rapid.T, experts int) []Node {
	var nodes []Node
	for n := range 7 {
		if n > 0 && rapid.IntRange(0, 3).Draw(t, "absent") == 0 {
			continue
		}
		nodes = append(nodes, Node{
			ID:            fmt.Sprintf("n%d", n),
			CapacityBytes: rapid.Int64Range(0, int64(experts+2)*replicaBytes).Draw(t, "capacity"),
			Speed:         rapid.SampledFrom([]float64{0, 1, 2, 0.5, -1, math.NaN(), math.Inf(1)}).Draw(t, "speed"),
			Domain:        rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "domain"),
		})
	}
	return nodes
}

// check holds a plan against what every plan promises.
func check(t *rapid.T, in Input, p *Plan, why Explanation) {
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, id := range p.NodeIDs {
		i := slices.IndexFunc(in.Nodes, func(n Node) bool { return n.ID == id })
		if i < 0 {
			t.Fatalf("the plan uses %s, which is not there", id)
		}
		if used := int64(p.Count(id)) * replicaBytes; used > in.Nodes[i].CapacityBytes {
			t.Fatalf("%s holds %d bytes, room for %d", id, used, in.Nodes[i].CapacityBytes)
		}
	}
	for l := range p.Replicas {
		for e, on := range p.Replicas[l] {
			if len(on) != why.Replicas {
				t.Fatalf("expert %d.%d has %d replicas, want %d", l, e, len(on), why.Replicas)
			}
		}
	}
}

// replicasThatFit is the largest count of replicas of each expert that the nodes hold.
func replicasThatFit(in Input) int {
	experts, room, nodes := len(in.Layers)*in.Experts, 0, 0
	for _, n := range in.Nodes {
		if slots := min(int(n.CapacityBytes/replicaBytes), experts); slots > 0 {
			nodes, room = nodes+1, room+slots
		}
	}
	return min(in.Replicas, nodes, room/experts)
}

// TestNextKeepsItsPromises changes the nodes of a cluster again and again.
func TestNextKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			p, why, err := Next(in)
			if want := replicasThatFit(in); want == 0 {
				if !errors.Is(err, ErrNoRoom) {
					t.Fatalf("Next = %v, want %v", err, ErrNoRoom)
				}
			} else if err != nil {
				t.Fatal(err)
			} else if why.Replicas != want {
				t.Fatalf("%d replicas, want %d", why.Replicas, want)
			} else {
				check(t, in, p, why)
				settles(t, in, p)
				in.Current = p
			}
			in.Nodes = drawNodes(t, len(in.Layers)*in.Experts)
		}
	})
}

// settles checks that the order of the nodes does not matter, and that planning again
// comes to rest.
func settles(t *rapid.T, in Input, p *Plan) {
	turned := in
	turned.Nodes = slices.Clone(in.Nodes)
	slices.Reverse(turned.Nodes)
	q, _, err := Next(turned)
	if err != nil || !reflect.DeepEqual(p, q) {
		t.Fatalf("the order of the nodes changes the plan: %v, then %v, %v", p, q, err)
	}
	for range 20 {
		next, _, err := Next(Input{Current: p, Layers: in.Layers, Experts: in.Experts,
			ReplicaBytes: in.ReplicaBytes, Nodes: in.Nodes, Load: in.Load, Replicas: in.Replicas})
		if err != nil {
			t.Fatal(err)
		}
		if next == p {
			return
		}
		p = next
	}
	t.Fatal("planning does not come to rest")
}

func equalNodes(n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{ID: fmt.Sprintf("n%02d", i), CapacityBytes: 1 << 40}
	}
	return nodes
}

// TestNextMovesLittle bounds what a join and a loss move, and the balance before and
// after, among equal nodes with room.
func TestNextMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(t, "nodes")
		in := Input{Layers: []int{1, 3, 5}, Experts: rapid.IntRange(1, 64).Draw(t, "experts"),
			ReplicaBytes: replicaBytes, Replicas: rapid.IntRange(1, 2).Draw(t, "replicas"),
			Nodes: equalNodes(n)}
		first, _, err := Next(in)
		if err != nil {
			t.Fatal(err)
		}
		evenly(t, in, first)
		in.Current, in.Nodes = first, equalNodes(n+1)
		second, why, err := Next(in)
		if err != nil {
			t.Fatal(err)
		}
		evenly(t, in, second)
		perLayer := (in.Experts*in.Replicas + n) / (n + 1)
		if most := 3 * perLayer; why.Added > most {
			t.Fatalf("a join moves %d replicas, want at most %d", why.Added, most)
		}
		gone := rapid.IntRange(0, n).Draw(t, "gone")
		in.Current, in.Nodes = second, slices.Delete(equalNodes(n+1), gone, gone+1)
		third, why, err := Next(in)
		if err != nil {
			t.Fatal(err)
		}
		evenly(t, in, third)
		lost := second.Count(fmt.Sprintf("n%02d", gone))
		if most := lost + 3; why.Added > most {
			t.Fatalf("a loss of %d replicas moves %d, want at most %d", lost, why.Added, most)
		}
	})
}

// evenly checks that each node is within the tolerance or one replica of its share.
func evenly(t *rapid.T, in Input, p *Plan) {
	share := float64(in.Experts*min(in.Replicas, len(in.Nodes))) / float64(len(in.Nodes))
	for l := range p.Layers {
		count := make([]int, len(in.Nodes))
		for _, on := range p.Replicas[l] {
			for _, n := range on {
				count[n]++
			}
		}
		for n, c := range count {
			if d := math.Abs(float64(c) - share); d > max(1, share/10+1e-9) {
				t.Fatalf("layer %d: node %d holds %d replicas, its share is %.2f", l, n, c, share)
			}
		}
	}
}

func TestNextRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Input){
		"no layers":       func(in *Input) { in.Layers = nil },
		"layers descend":  func(in *Input) { in.Layers = []int{3, 1} },
		"no experts":      func(in *Input) { in.Experts = 0 },
		"replica size":    func(in *Input) { in.ReplicaBytes = 0 },
		"replicas":        func(in *Input) { in.Replicas = -1 },
		"tolerance":       func(in *Input) { in.Tolerance = math.NaN() },
		"two of a name":   func(in *Input) { in.Nodes[1].ID = in.Nodes[0].ID },
		"node unnamed":    func(in *Input) { in.Nodes[0].ID = "" },
		"too many nodes":  func(in *Input) { in.Nodes = equalNodes(MaxNodes + 1) },
		"too many layers": func(in *Input) { in.Layers = make([]int, MaxLayers+1) },
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Layers: []int{0}, Experts: 4, ReplicaBytes: 1, Nodes: equalNodes(2)}
			spoil(&in)
			if _, _, err := Next(in); err == nil {
				t.Error("Next accepts it")
			}
		})
	}
}

// TestNextReplacesAnotherModelsPlan starts afresh, with a rising revision.
func TestNextReplacesAnotherModelsPlan(t *testing.T) {
	in := Input{Current: spread(5, 9, 3, 1), Layers: []int{0}, Experts: 4, ReplicaBytes: 1,
		Nodes: equalNodes(2)}
	p, _, err := Next(in)
	if err != nil {
		t.Fatal(err)
	}
	if p.Revision != in.Current.Revision+1 || !slices.Equal(p.Layers, in.Layers) {
		t.Errorf("got revision %d with layers %v", p.Revision, p.Layers)
	}
}

func BenchmarkNext(b *testing.B) {
	in := Input{Experts: 256, ReplicaBytes: 1, Replicas: 2, Nodes: equalNodes(100)}
	for l := range 58 {
		in.Layers = append(in.Layers, l+3)
	}
	p, _, err := Next(in)
	if err != nil {
		b.Fatal(err)
	}
	in.Current, in.Nodes = p, in.Nodes[1:]
	for b.Loop() {
		if _, _, err := Next(in); err != nil {
			b.Fatal(err)
		}
	}
}
