package placement

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// spread places the given number of replicas of each expert on nodes, in turn.
func spread(layers, experts, nodes, replicas int) *Plan {
	p := &Plan{Revision: 7, Experts: experts}
	for n := range nodes {
		p.NodeIDs = append(p.NodeIDs, fmt.Sprintf("node-%04d", n))
	}
	for l := range layers {
		p.Layers = append(p.Layers, 2*l+1)
		row := make([][]uint16, experts)
		for e := range row {
			for r := range replicas {
				row[e] = append(row[e], uint16((l+e+r)%nodes))
			}
			slices.Sort(row[e])
		}
		p.Replicas = append(p.Replicas, row)
	}
	return p
}

func TestPlanLookups(t *testing.T) {
	p := spread(2, 3, 3, 2)
	if got, want := p.On(3, 1), []uint16{0, 2}; !slices.Equal(got, want) {
		t.Errorf("On(3, 1) = %v, want %v", got, want)
	}
	for _, unknown := range []Replica{{2, 0}, {1, 3}, {1, -1}, {-1, 0}, {99, 0}} {
		if got := p.On(unknown.Layer, unknown.Expert); got != nil {
			t.Errorf("On(%v) = %v, want nil", unknown, got)
		}
	}
	if got := (*Plan)(nil).On(1, 1); got != nil {
		t.Errorf("On of no plan = %v, want nil", got)
	}
	want := []Replica{{1, 0}, {1, 2}, {3, 1}, {3, 2}}
	if got := p.Holds("node-0000"); !slices.Equal(got, want) {
		t.Errorf("Holds = %v, want %v", got, want)
	}
	if got := p.Count("node-0000"); got != len(want) {
		t.Errorf("Count = %d, want %d", got, len(want))
	}
	if got := p.Holds("stranger"); got != nil {
		t.Errorf("Holds of a stranger = %v, want nil", got)
	}
	if n := testing.AllocsPerRun(100, func() { p.On(3, 1) }); n != 0 {
		t.Errorf("On allocates %v times", n)
	}
}

func TestViewLookups(t *testing.T) {
	v := &View{Plan: spread(1, 3, 3, 1), Nodes: map[string]Node{
		"node-0000": {ID: "node-0000"}, "node-0002": {ID: "node-0002"},
	}}
	if n, ok := v.Node(2); !ok || n.ID != "node-0002" {
		t.Errorf("Node(2) = %v, %v", n, ok)
	}
	for _, i := range []uint16{1, 3} {
		if _, ok := v.Node(i); ok {
			t.Errorf("Node(%d) is registered", i)
		}
	}
	if got, want := v.Uncovered(), []Replica{{1, 1}}; !slices.Equal(got, want) {
		t.Errorf("Uncovered() = %v, want %v", got, want)
	}
	if got := v.Revision(); got != 7 {
		t.Errorf("Revision() = %d, want 7", got)
	}
	if got := (*View)(nil).Revision(); got != 0 {
		t.Errorf("Revision() of no View = %d, want 0", got)
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*Plan)
		ok    bool
	}{
		"good":              {func(*Plan) {}, true},
		"zero":              {func(p *Plan) { *p = Plan{} }, true},
		"layers descend":    {func(p *Plan) { slices.Reverse(p.Layers) }, false},
		"negative layer":    {func(p *Plan) { p.Layers[0] = -1 }, false},
		"layer missing":     {func(p *Plan) { p.Replicas = p.Replicas[:1] }, false},
		"expert missing":    {func(p *Plan) { p.Replicas[0] = p.Replicas[0][:1] }, false},
		"too many experts":  {func(p *Plan) { p.Experts = MaxExperts + 1 }, false},
		"no replica":        {func(p *Plan) { p.Replicas[1][1] = nil }, false},
		"same node twice":   {func(p *Plan) { p.Replicas[1][1] = []uint16{1, 1} }, false},
		"unknown node":      {func(p *Plan) { p.Replicas[1][1] = []uint16{3} }, false},
		"node named twice":  {func(p *Plan) { p.NodeIDs[1] = p.NodeIDs[0] }, false},
		"node without name": {func(p *Plan) { p.NodeIDs[0] = "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := spread(2, 3, 3, 2)
			tc.spoil(p)
			if err := p.Validate(); (err == nil) != tc.ok {
				t.Errorf("Validate() = %v, want ok %v", err, tc.ok)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	old, next := spread(1, 2, 2, 1), spread(1, 2, 2, 1)
	next.NodeIDs = []string{"node-0000", "node-0009"}
	add, drop := Diff(old, next)
	if want := []Move{{"node-0009", Replica{1, 1}}}; !slices.Equal(add, want) {
		t.Errorf("add = %v, want %v", add, want)
	}
	if want := []Move{{"node-0001", Replica{1, 1}}}; !slices.Equal(drop, want) {
		t.Errorf("drop = %v, want %v", drop, want)
	}
	add, drop = Diff(nil, old)
	if len(add) != 2 || drop != nil {
		t.Errorf("Diff from nothing = %v, %v", add, drop)
	}
}

func TestRecordSizes(t *testing.T) {
	for _, tc := range []struct{ layers, experts, nodes, mostBytes int }{
		{24, 128, 16, 10 << 10}, {58, 256, 100, 48 << 10}, {58, 256, 1000, 80 << 10},
	} {
		record := spread(tc.layers, tc.experts, tc.nodes, 2).Encode()
		if len(record) > tc.mostBytes {
			t.Errorf("%v takes %d bytes", tc, len(record))
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, 300).Draw(t, "nodes")
		p := spread(rapid.IntRange(0, 5).Draw(t, "layers"), rapid.IntRange(0, 9).Draw(t, "experts"),
			nodes, rapid.IntRange(1, min(3, nodes)).Draw(t, "replicas"))
		p.Revision = rapid.Uint64().Draw(t, "revision")
		got, err := Decode(p.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("got %+v, want %+v", got, p)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	good := spread(2, 3, 3, 2).Encode()
	for n := range good {
		if _, err := Decode(good[:n]); err == nil {
			t.Errorf("Decode accepts the first %d of %d bytes", n, len(good))
		}
	}
	if _, err := Decode(append(slices.Clone(good), 0)); err == nil {
		t.Error("Decode accepts a byte too many")
	}
	if _, err := Decode(make([]byte, maxRecordBytes+1)); err == nil {
		t.Error("Decode accepts a record beyond its bound")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(spread(2, 3, 3, 2).Encode())
	f.Add(spread(3, 2, 200, 1).Encode())
	f.Add((&Plan{}).Encode())
	f.Fuzz(func(t *testing.T, record []byte) {
		p, err := Decode(record)
		if err != nil {
			return
		}
		again, err := Decode(p.Encode())
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("a decoded plan changes: %+v, then %+v, %v", p, again, err)
		}
	})
}
