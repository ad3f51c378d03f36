package main

import (
	"strings"
	"testing"

	droverv1 "drover/proto/drover/v1"
)

// TestPrintNodes says below the table why a node is in its state.
func TestPrintNodes(t *testing.T) {
	var out strings.Builder
	err := printNodes(&globals{out: &out}, &droverv1.ListNodesResponse{Nodes: []*droverv1.NodeStatus{
		{Id: "a", State: "ready", Speed: 1}, {Id: "b", State: "unreachable", Reason: "no link to it"}}})
	got := out.String()
	if err != nil || strings.Count(got, "\n") != 5 ||
		!strings.HasSuffix(got, "\n\nb is unreachable: no link to it\n") {
		t.Errorf("%v:\n%s", err, got)
	}
}
