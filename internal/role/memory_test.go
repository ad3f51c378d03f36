package role

import (
	"path/filepath"
	"strings"
	"testing"

	"drover/kernel"
	"drover/model"
)

// TestNodeMemory bounds what a node offers to hold by the memory that it may take.
func TestNodeMemory(t *testing.T) {
	m, err := OpenModel(filepath.Join("..", "..", "models", "tiny-maverick"),
		model.Options{Mode: kernel.BF16})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	spec := m.Source.Spec()
	all := spec.ReplicaBytes * int64(len(spec.Layers)) * int64(spec.Experts)
	for name, tc := range map[string]struct {
		memory, capacity, loading int64

		want int64 // 0: refused
	}{
		"no limit":          {0, 0, 0, all},
		"ample":             {nodeReserve + 2*all, 0, 0, all},
		"less than all":     {nodeReserve + all/2, 0, 0, all / 2},
		"one expert":        {nodeReserve + spec.ReplicaBytes, 0, 0, spec.ReplicaBytes},
		"not one expert":    {nodeReserve + spec.ReplicaBytes - 1, 0, 0, 0},
		"less than nothing": {4096, 0, 0, 0},
		"capacity is given": {nodeReserve + all, all / 4, 0, all / 4},
		"capacity of one":   {0, spec.ReplicaBytes, 0, spec.ReplicaBytes},
		"capacity of less":  {0, spec.ReplicaBytes - 1, 0, 0},
		"room to load":      {nodeReserve + all, 0, all / 8, all - all/8},
		"none beside it":    {nodeReserve + all/8, 0, all / 8, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := ExpertNodeOptions{MemoryBytes: tc.memory, CapacityBytes: tc.capacity}
			n, err := o.node(m, "127.0.0.1:1", tc.loading)
			if tc.want == 0 {
				if err == nil || !strings.Contains(err.Error(), "raise ") {
					t.Errorf("error %v, want one that says what to do", err)
				}
			} else if err != nil || n.CapacityBytes != tc.want {
				t.Errorf("capacity %d, %v; want %d", n.CapacityBytes, err, tc.want)
			}
		})
	}
}
