package placement

import (
	"cmp"
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
		Spare:    rapid.SampledFrom([]float64{0, 0.25, 1}).Draw(t, "spare"),
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
			Draining:      rapid.IntRange(0, 7).Draw(t, "draining") == 0,
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
		if in.Nodes[i].Draining {
			t.Fatalf("the plan uses %s, which drains", id)
		}
		capacity := in.Nodes[i].CapacityBytes
		if used := int64(p.Count(id)) * replicaBytes; used > capacity {
			t.Fatalf("%s holds %d bytes, room for %d", id, used, capacity)
		}
		old := int64(in.Current.Count(id)) * replicaBytes
		if both := int64(union(in.Current, p, id)) * replicaBytes; old <= capacity && both > capacity {
			t.Fatalf("%s holds %d bytes while the change runs, room for %d", id, both, capacity)
		}
	}
	for l := range p.Replicas {
		for e, on := range p.Replicas[l] {
			if len(on) < why.Replicas && !why.Deferred {
				t.Fatalf("expert %d.%d has %d replicas, want %d", l, e, len(on), why.Replicas)
			}
			if most := in.Replicas + in.extras(); len(on) > most {
				t.Fatalf("expert %d.%d has %d replicas, at most %d", l, e, len(on), most)
			}
		}
	}
	if most := len(in.Layers) * in.extras(); why.Extra > most {
		t.Fatalf("%d extra replicas, at most %d", why.Extra, most)
	}
}

// extras is how many extra replicas a layer may have.
func (in *Input) extras() int {
	return int(in.Spare * float64(in.Experts*max(in.Replicas, 1)))
}

// checkDomains wants no two replicas of an expert in one failure domain while a node of
// another has room.
func checkDomains(t *rapid.T, in Input, p *Plan) {
	domain := map[string]string{}
	for _, n := range in.Nodes {
		domain[n.ID] = cmp.Or(n.Domain, "node "+n.ID)
	}
	for l := range p.Replicas {
		for e, on := range p.Replicas[l] {
			used := map[string]bool{}
			for _, n := range on {
				used[domain[p.NodeIDs[n]]] = true
			}
			if len(used) == len(on) {
				continue
			}
			for _, n := range in.Nodes {
				room := n.CapacityBytes/replicaBytes > int64(p.Count(n.ID))
				if room && !n.Draining && !used[domain[n.ID]] {
					t.Fatalf("expert %d.%d shares a domain, and %s has room", l, e, n.ID)
				}
			}
		}
	}
}

// union counts the replicas that a node has in either plan.
func union(old, next *Plan, id string) int {
	n := next.Count(id)
	for _, r := range old.Holds(id) {
		i, ok := next.Index(id)
		if !ok || !slices.Contains(next.On(r.Layer, r.Expert), i) {
			n++
		}
	}
	return n
}

// checkStranded holds a plan that makes room against what such a plan promises: it gives
// nothing to nodes that are gone, and no expert loses its last live replica.
func checkStranded(t *rapid.T, in Input, p *Plan) {
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	live := map[string]Node{}
	for _, n := range in.Nodes {
		live[n.ID] = n
	}
	add, _ := Diff(in.Current, p)
	for _, m := range add {
		if _, ok := live[m.NodeID]; !ok {
			t.Fatalf("the plan gives %v to a node that is gone", m)
		}
	}
	before, after := View{Plan: in.Current, Nodes: live}, View{Plan: p, Nodes: live}
	for _, r := range after.Uncovered() {
		if !slices.Contains(before.Uncovered(), r) {
			t.Fatalf("%v loses its last live replica", r)
		}
	}
}

// replicasThatFit is the largest count of replicas of each expert that the nodes hold.
func replicasThatFit(in Input) int {
	experts, room, nodes := len(in.Layers)*in.Experts, 0, 0
	for _, n := range in.Nodes {
		if slots := min(int(n.CapacityBytes/replicaBytes), experts); slots > 0 && !n.Draining {
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
				if why.Stranded > 0 {
					checkStranded(t, in, p)
				} else {
					check(t, in, p, why)
				}
				in.Current = settles(t, in, p)
			}
			in.Nodes = drawNodes(t, len(in.Layers)*in.Experts)
		}
	})
}

// settles checks that the order of the nodes does not matter, and that planning again
// comes to rest, at the plan that it returns.
func settles(t *rapid.T, in Input, p *Plan) *Plan {
	turned := in
	turned.Nodes = slices.Clone(in.Nodes)
	slices.Reverse(turned.Nodes)
	q, _, err := Next(turned)
	if err != nil || !reflect.DeepEqual(p, q) {
		t.Fatalf("the order of the nodes changes the plan: %v, then %v, %v", p, q, err)
	}
	rounds := len(in.Layers)*in.Experts + 20
	for range rounds {
		in.Current = p
		next, why, err := Next(in)
		if err != nil {
			t.Fatal(err)
		}
		if next == p {
			if why.Deferred || why.Stranded > 0 {
				t.Fatalf("planning stops and promises more: %v", why)
			}
			check(t, in, next, why)
			checkDomains(t, in, next)
			return p
		}
		if why.Stranded > 0 {
			t.Fatalf("room was made, and experts are stranded again: %v", why)
		}
		check(t, in, next, why)
		p = next
	}
	t.Fatalf("planning does not come to rest in %d rounds", rounds)
	return nil
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
		if most := lost + lost/5 + 3; why.Added > most {
			t.Fatalf("a loss of %d replicas moves %d, want at most %d", lost, why.Added, most)
		}
	})
}

// evenly checks that no node is above its share of a layer by more than one replica and what
// is not worth a move, nor by as much in each layer below it over all.
func evenly(t *rapid.T, in Input, p *Plan) {
	share := float64(in.Experts*min(in.Replicas, len(in.Nodes))) / float64(len(in.Nodes))
	total := make([]int, len(in.Nodes))
	for l := range p.Layers {
		count := make([]int, len(in.Nodes))
		for _, on := range p.Replicas[l] {
			for _, n := range on {
				count[n]++
				total[n]++
			}
		}
		for n, c := range count {
			if float64(c) > (share+1)/(1-defaultMinGain)+1e-9 {
				t.Fatalf("layer %d: node %d holds %d replicas, its share is %.2f", l, n, c, share)
			}
		}
	}
	layers := float64(len(p.Layers))
	for n, c := range total {
		if d := share*layers - float64(c); d > layers*max(1, share/6) {
			t.Fatalf("node %d holds %d replicas, its share is %.2f", n, c, share*layers)
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
