package show

import (
	"strings"
	"testing"

	droverv1 "drover/proto/drover/v1"
)

func TestRanges(t *testing.T) {
	for want, n := range map[string][]int{
		"0-3, 7, 9-10": {0, 1, 2, 3, 7, 9, 10},
		"1, 5 … 125":   {1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61, 65, 69, 73, 77, 81, 85, 89, 93, 97, 101, 105, 109, 113, 117, 121, 125},
		"4":            {4},
		"":             {},
	} {
		if got := Ranges(n); got != want {
			t.Errorf("Ranges(%v) = %q, want %q", n, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 3 << 30: "3.0 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPlacement(t *testing.T) {
	r := &droverv1.GetPlacementResponse{Revision: 3, Layers: []*droverv1.LayerPlacement{{Layer: 1,
		Experts: []*droverv1.ExpertReplicas{{NodeIds: []string{"a"}}, {NodeIds: []string{"a", "b"}}}}}}
	if got := Placement(r).Layers[1][1]; len(got) != 2 || got[1] != "b" {
		t.Errorf("expert 1 of layer 1 is on %v", got)
	}
	var b strings.Builder
	if err := PrintPlacement(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"revision 3\n", "layer 1\n", "a              2 experts  0-1\n",
		"b              1 experts  1\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("text is %q, want %q in it", b.String(), want)
		}
	}
}

func TestPlacementWithLoad(t *testing.T) {
	r := &droverv1.GetPlacementResponse{Revision: 3, Layers: []*droverv1.LayerPlacement{{Layer: 1,
		Imbalance: 1.125, Experts: []*droverv1.ExpertReplicas{
			{NodeIds: []string{"a"}, Load: 2.5}, {NodeIds: []string{"a", "b"}, Load: 12.25},
			{NodeIds: []string{"b"}, Load: 0.1}}}}}
	p := Placement(r)
	if p.Load[1][1] != 12.25 || p.Load[1][2] != 0.1 || p.Imbalance[1] != 1.13 {
		t.Errorf("load %v, imbalance %v", p.Load, p.Imbalance)
	}
	var b strings.Builder
	if err := PrintPlacement(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"layer 1: the fullest node has 1.12 of its part\n",
		"  hot experts: 1 (12.2 times the mean, on 2 nodes), 0 (2.5 times the mean, on 1 node)\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("text is %q, want %q in it", b.String(), want)
		}
	}
}
