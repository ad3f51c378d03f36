package router_test

import (
	"fmt"
	"testing"

	"drover/kernel"
	"drover/placement"
	"drover/router"
)

// TestOutages stops a node and starts it again: it alone is out of reach meanwhile, and a node
// that was never there is, too.
func TestOutages(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.Lanes = 2 })
	v := viewOf(testSpec, 1, 2, nodes...)
	r.Update(v)
	waitReady(t, r)
	if o := r.Outages(); len(o) > 0 {
		t.Errorf("with all connected: %v", o)
	}
	out := func(ids ...string) {
		t.Helper()
		waitFor(t, func() error {
			all := r.Outages()
			for _, id := range ids {
				if o, ok := all[id]; !ok || o.Reason == "" || o.Down <= 0 {
					return fmt.Errorf("%s is down: %v", id, all)
				}
			}
			if len(all) != len(ids) {
				return fmt.Errorf("%v are down, not %v", ids, all)
			}
			return nil
		})
	}
	nodes[1].stop()
	out("n1")
	v.Nodes["never"] = placement.Node{ID: "never", Epoch: 1, Address: "127.0.0.1:1"}
	r.Update(v)
	out("n1", "never")
	startNode(t, nodeConfig{id: "n1", address: nodes[1].node.Address, fake: nodes[1].fake})
	out("never")
}
