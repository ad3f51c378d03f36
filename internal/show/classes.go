package show

import (
	"fmt"
	"io"
	"strings"

	droverv1 "drover/proto/drover/v1"
)

// Classes says with which kernel classes a placement's experts are computed, and so whose
// answers are the same bytes, whichever node computes.
type Classes struct {
	// Nodes lists the placement's nodes by their kernel class, as far as it is known.
	Nodes map[string][]string `json:"kernel_classes"`
	// Mixed lists, by layer, experts with replicas of several classes: which one computes is up
	// to load and faults.
	Mixed map[uint32][]int `json:"mixed_experts,omitempty"`
	// SameBytes tells whether all nodes are of one class, so that every request gives the same
	// bytes. Else only those do whose experts are not mixed, while the placement stays.
	SameBytes bool `json:"same_bytes"`

	experts, mixed int
}

// ClassesOf looks at a placement and at the nodes that the same coordinator lists.
func ClassesOf(p *droverv1.GetPlacementResponse, nodes *droverv1.ListNodesResponse) Classes {
	class := map[string]string{}
	for _, n := range nodes.Nodes {
		class[n.Id] = n.KernelClass
	}
	c := Classes{Nodes: map[string][]string{}, Mixed: map[uint32][]int{}}
	holding := map[string]bool{}
	for _, l := range p.Layers {
		for e, x := range l.Experts {
			c.experts++
			first := ""
			for _, id := range x.NodeIds {
				holding[id] = true
				of := class[id]
				if first != "" && of != "" && of != first {
					c.Mixed[l.Layer] = append(c.Mixed[l.Layer], e)
					c.mixed++
					break
				}
				if first == "" {
					first = of
				}
			}
		}
	}
	for _, id := range sortedKeys(holding) {
		if of := class[id]; of != "" {
			c.Nodes[of] = append(c.Nodes[of], id)
		}
	}
	c.SameBytes = len(c.Nodes) < 2
	return c
}

// Print writes it for people; nothing where no class is known.
func (c Classes) Print(w io.Writer) error {
	var b strings.Builder
	names := sortedKeys(c.Nodes)
	switch {
	case len(names) == 0:
		return nil
	case c.SameBytes:
		fmt.Fprintf(&b, "kernel class %s: requests give the same bytes, whichever node computes\n",
			names[0])
	default:
		var parts []string
		for _, name := range names {
			parts = append(parts, fmt.Sprintf("%s on %s", name, strings.Join(c.Nodes[name], ", ")))
		}
		fmt.Fprintf(&b, "kernel classes %s\n  requests give the same bytes while this placement stays "+
			"and they need no expert of several classes, as %d of %d are\n", strings.Join(parts, "; "),
			c.mixed, c.experts)
		for _, layer := range sortedKeys(c.Mixed) {
			fmt.Fprintf(&b, "  layer %d, of several classes: %s\n", layer, Ranges(c.Mixed[layer]))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
