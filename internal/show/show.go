// Package show turns what the cluster says of itself into JSON and text.
package show

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	droverv1 "drover/proto/drover/v1"
)

// Node is one expert node, as `drover nodes --json` prints it.
type Node struct {
	ID            string `json:"id"`
	Address       string `json:"address"`
	PID           uint64 `json:"pid,omitempty"`
	Host          string `json:"host"`
	State         string `json:"state"`
	Reason        string `json:"reason,omitempty"`
	Bytes         uint64 `json:"bytes"`
	CapacityBytes uint64 `json:"capacity_bytes"`
	Experts       uint32 `json:"experts"`
	KernelClass   string `json:"kernel_class"`
	Domain        string `json:"failure_domain"`
	Rows          uint64 `json:"rows_dispatched"`
	// Speed is relative to the middle node; absent if it was not measured.
	Speed float64 `json:"speed,omitempty"`
}

// NodeList is the document of `drover nodes --json`.
type NodeList struct {
	Revision uint64 `json:"revision"`
	Nodes    []Node `json:"nodes"`
}

// Nodes makes the document of a response.
func Nodes(r *droverv1.ListNodesResponse) NodeList {
	list := NodeList{Revision: r.Revision, Nodes: []Node{}}
	for _, n := range r.Nodes {
		list.Nodes = append(list.Nodes, Node{n.Id, n.Address, n.Pid, n.Host, n.State, n.Reason, n.Bytes,
			n.CapacityBytes, n.ReplicaCount, n.KernelClass, n.FailureDomain, n.RowsDispatched, n.Speed})
	}
	return list
}

// PlacementMap is the document of `drover placement --json`: layer, then expert,
// then the ids of the nodes that hold it; and alike the load that was measured, absent if
// none was.
type PlacementMap struct {
	Revision uint64                         `json:"revision"`
	Layers   map[uint32]map[uint32][]string `json:"layers"`
	// Load is relative to the mean of the layer's experts, Imbalance the fullest node's
	// load relative to its part.
	Load      map[uint32]map[uint32]float64 `json:"load,omitempty"`
	Imbalance map[uint32]float64            `json:"imbalance,omitempty"`
	Classes
}

// Placement makes the document of a response.
func Placement(r *droverv1.GetPlacementResponse) PlacementMap {
	p := PlacementMap{Revision: r.Revision, Layers: map[uint32]map[uint32][]string{},
		Load: map[uint32]map[uint32]float64{}, Imbalance: map[uint32]float64{}}
	for _, l := range r.Layers {
		experts, load := map[uint32][]string{}, map[uint32]float64{}
		for e, x := range l.Experts {
			experts[uint32(e)], load[uint32(e)] = x.NodeIds, hundredths(x.Load)
		}
		p.Layers[l.Layer] = experts
		if l.Imbalance > 0 {
			p.Load[l.Layer], p.Imbalance[l.Layer] = load, hundredths(l.Imbalance)
		}
	}
	return p
}

func hundredths(x float64) float64 { return math.Round(100*x) / 100 }

// hot lists the experts of a layer with the most work: up to six that have at least
// twice the mean.
func hot(l *droverv1.LayerPlacement) string {
	var experts []int
	for e, x := range l.Experts {
		if x.Load >= 2 {
			experts = append(experts, e)
		}
	}
	slices.SortStableFunc(experts, func(a, b int) int {
		return cmp.Compare(l.Experts[b].Load, l.Experts[a].Load)
	})
	var parts []string
	for _, e := range experts[:min(len(experts), 6)] {
		nodes := fmt.Sprintf("%d nodes", len(l.Experts[e].NodeIds))
		if len(l.Experts[e].NodeIds) == 1 {
			nodes = "1 node"
		}
		parts = append(parts, fmt.Sprintf("%d (%.1f times the mean, on %s)", e, l.Experts[e].Load, nodes))
	}
	return strings.Join(parts, ", ")
}

// PrintPlacement writes, for each layer, the experts of each node as ranges, and what is
// known of the load.
func PrintPlacement(w io.Writer, r *droverv1.GetPlacementResponse) error {
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d\n", r.Revision)
	for _, l := range r.Layers {
		held := map[string][]int{}
		for e, x := range l.Experts {
			for _, id := range x.NodeIds {
				held[id] = append(held[id], e)
			}
		}
		fmt.Fprintf(&b, "layer %d", l.Layer)
		if l.Imbalance > 0 {
			fmt.Fprintf(&b, ": the fullest node has %.2f of its part", l.Imbalance)
		}
		b.WriteByte('\n')
		if h := hot(l); h != "" {
			fmt.Fprintf(&b, "  hot experts: %s\n", h)
		}
		for _, id := range sortedKeys(held) {
			fmt.Fprintf(&b, "  %-12s %3d experts  %s\n", id, len(held[id]), Ranges(held[id]))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

// Ranges writes ascending numbers as ranges: 0-3, 7, 9-10. Numbers at equal steps of
// more than one, as a round-robin placement has them, are written 1, 5 … 125.
func Ranges(n []int) string {
	if step, ok := equalSteps(n); ok {
		return fmt.Sprintf("%d, %d … %d", n[0], n[0]+step, n[len(n)-1])
	}
	var parts []string
	for i := 0; i < len(n); {
		j := i
		for j+1 < len(n) && n[j+1] == n[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(n[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", n[i], n[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

func equalSteps(n []int) (step int, ok bool) {
	if len(n) < 4 || n[1]-n[0] < 2 {
		return 0, false
	}
	step = n[1] - n[0]
	for i := 2; i < len(n); i++ {
		if n[i]-n[i-1] != step {
			return 0, false
		}
	}
	return step, true
}

// Bytes writes a size in powers of 1024.
func Bytes(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, prefix := float64(n)/unit, 0
	for v >= unit && prefix < 4 {
		v /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[prefix])
}
