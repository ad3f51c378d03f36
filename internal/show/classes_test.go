package show

import (
	"encoding/json"
	"strings"
	"testing"

	droverv1 "drover/proto/drover/v1"
)

// TestClasses looks at placements of one class, of two that share experts, and of two that do
// not; a node that is gone has no class.
func TestClasses(t *testing.T) {
	nodes := &droverv1.ListNodesResponse{Nodes: []*droverv1.NodeStatus{
		{Id: "a", KernelClass: "cpu4-bf16"}, {Id: "b", KernelClass: "cpu4-bf16"},
		{Id: "g", KernelClass: "cuda4-bf16"}, {Id: "gone"}}}
	layer := func(n uint32, experts ...string) *droverv1.LayerPlacement {
		l := &droverv1.LayerPlacement{Layer: n}
		for _, e := range experts {
			l.Experts = append(l.Experts, &droverv1.ExpertReplicas{NodeIds: strings.Fields(e)})
		}
		return l
	}
	for _, tc := range []struct {
		layers     []*droverv1.LayerPlacement
		json, text string
	}{
		{[]*droverv1.LayerPlacement{layer(1, "a b", "b gone")},
			`{"kernel_classes":{"cpu4-bf16":["a","b"]},"same_bytes":true}`,
			"kernel class cpu4-bf16: requests give the same bytes, whichever node computes\n"},
		{[]*droverv1.LayerPlacement{layer(1, "a", "g a", "b"), layer(3, "gone g", "a b g", "g")},
			`{"kernel_classes":{"cpu4-bf16":["a","b"],"cuda4-bf16":["g"]},"mixed_experts":{"1":[1],"3":[1]},` +
				`"same_bytes":false}`,
			"kernel classes cpu4-bf16 on a, b; cuda4-bf16 on g\n  requests give the same bytes while this " +
				"placement stays and they need no expert of several classes, as 2 of 6 are\n" +
				"  layer 1, of several classes: 1\n  layer 3, of several classes: 1\n"},
		{[]*droverv1.LayerPlacement{layer(1, "a", "g")},
			`{"kernel_classes":{"cpu4-bf16":["a"],"cuda4-bf16":["g"]},"same_bytes":false}`,
			"kernel classes cpu4-bf16 on a; cuda4-bf16 on g\n  requests give the same bytes while this " +
				"placement stays and they need no expert of several classes, as 0 of 2 are\n"},
		{nil, `{"kernel_classes":{},"same_bytes":true}`, ""},
	} {
		c := ClassesOf(&droverv1.GetPlacementResponse{Layers: tc.layers}, nodes)
		got, err := json.Marshal(c)
		if err != nil || string(got) != tc.json {
			t.Errorf("JSON is %s, %v, want %s", got, err, tc.json)
		}
		var b strings.Builder
		if err := c.Print(&b); err != nil || b.String() != tc.text {
			t.Errorf("text is %q, %v, want %q", &b, err, tc.text)
		}
	}
}
