//go:build cuda && linux

package role

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/cluster"
	"drover/internal/answer"
	"drover/kernel"
	"drover/kernel/cuda/standin"
	droverv1 "drover/proto/drover/v1"
)

// classPool is a node of each kernel class, by the kind of its device.
type classPool struct {
	*testing.T
	ctx   context.Context
	store cluster.Store
	nodes map[string]*ExpertNode
}

func newClassPool(t *testing.T, ctx context.Context) *classPool {
	p := &classPool{T: t, ctx: ctx, store: &cluster.Memory{}, nodes: map[string]*ExpertNode{}}
	for kind, device := range map[string]string{"cpu": "cpu", "cuda": "cuda:0",
		"cuda-tensor": "cuda-tensor:1"} {
		n, err := StartExpertNode(ctx, ExpertNodeOptions{ModelDir: demo, Mode: kernel.BF16,
			Store: p.store, Compute: Compute{Device: device}, ID: kind, Epoch: NewEpoch(),
			Listen: "127.0.0.1:0", Domain: kind, ShortLease: true,
			Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		p.nodes[kind] = n
	}
	return p
}

// coordinator starts one whose experts are computed by nodes of a kind of devices.
func (p *classPool) coordinator(kind string, log *slog.Logger) *Coordinator {
	c, err := StartCoordinator(p.ctx, CoordinatorOptions{ModelDir: demo, Mode: kernel.BF16,
		Store: p.store, MinNodes: 1, ExpertDevice: kind, GRPC: loopback(p.T), ShortLease: true,
		LastResort: LastResort{Bytes: 64 << 20, Wait: 2 * time.Second}, Log: log})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(c.Close)
	if err := c.WaitReady(p.ctx); err != nil {
		p.Fatal(err)
	}
	return c
}

// rows are how many rows the coordinator sent to each node. A node that it may not use has
// another state than ready.
func (p *classPool) rows(c *Coordinator, kind string) map[string]uint64 {
	p.Helper()
	r, err := droverv1.NewClusterServiceClient(c.Conn).ListNodes(p.ctx, &droverv1.ListNodesRequest{})
	if err != nil {
		p.Fatal(err)
	}
	rows := map[string]uint64{}
	for _, n := range r.Nodes {
		rows[n.Id] = n.RowsDispatched
		usable := kind == AnyDevice || n.Id == kind
		if usable == (n.State == "unusable") {
			p.Errorf("experts of %s: node %s is %s", kind, n.Id, n.State)
		}
	}
	return rows
}

// placed waits until the placement uses these nodes.
func (p *classPool) placed(c *Coordinator, want ...string) {
	p.Helper()
	await(p.T, "that experts are placed on "+strings.Join(want, " and "), func() (bool, string) {
		got := p.placement(c)
		return slices.Equal(got, want), strings.Join(got, " and ")
	})
}

// placement is the nodes that the placement uses.
func (p *classPool) placement(c *Coordinator) []string {
	p.Helper()
	r, err := droverv1.NewClusterServiceClient(c.Conn).GetPlacement(p.ctx,
		&droverv1.GetPlacementRequest{})
	if err != nil {
		p.Fatal(err)
	}
	used := map[string]bool{}
	for _, l := range r.Layers {
		for _, e := range l.Experts {
			for _, id := range e.NodeIds {
				used[id] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(used))
}

// TestGPUClasses has nodes of three kernel classes side by side. A coordinator uses those of the
// class that it was told, and no other one for a single row, nor itself, when the last of
// them is gone: its requests fail. Told to mix, it uses several.
func TestGPUClasses(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*within)
	defer cancel()
	p := newClassPool(t, ctx)
	want := map[string]string{}
	for _, kind := range []string{"cpu", "cuda", "cuda-tensor"} {
		said := &lines{}
		c := p.coordinator(kind, slog.New(slog.NewTextHandler(said, nil)))
		client := droverv1.NewCoordinatorServiceClient(c.Conn)
		want[kind] = askLong(t, client, 9) + askLong(t, client, 40)
		for id, n := range p.rows(c, kind) {
			if (n > 0) != (id == kind) {
				t.Errorf("experts of %s: node %s got %d rows", kind, id, n)
			}
		}
		p.placed(c, kind)
		if warned := strings.Contains(said.String(), "another kernel class"); warned != (kind != "cpu") {
			t.Errorf("experts of %s, the log: %s", kind, said)
		}
		if kind == "cuda-tensor" {
			p.withoutNodes(c, kind)
		}
		c.Close()
	}
	if want["cuda"] != want["cpu"] {
		t.Errorf("cuda answers %s, cpu %s", want["cuda"], want["cpu"])
	}
	c := p.coordinator(AnyDevice, slog.New(slog.DiscardHandler))
	if got := askLong(t, droverv1.NewCoordinatorServiceClient(c.Conn), 40); got == "" {
		t.Error("a mixed pool does not answer")
	}
	p.placed(c, "cpu", "cuda")
}

// withoutNodes ends the only node of a class: a request fails, and nobody else gets a row.
func (p *classPool) withoutNodes(c *Coordinator, kind string) {
	p.Helper()
	p.nodes[kind].Close()
	got, err := answer.Ask(p.ctx, droverv1.NewCoordinatorServiceClient(c.Conn),
		&droverv1.GenerateRequest{MaxTokens: 4, IgnoreEos: true, Prompt: &droverv1.GenerateRequest_Tokens{
			Tokens: &droverv1.Tokens{Ids: []int32{10, 20, 30}}}})
	if err == nil {
		p.Errorf("without a node of %s the answer is %v", kind, got)
	}
	for id, n := range p.rows(c, kind) {
		if id != kind && n > 0 {
			p.Errorf("without a node of %s, %s got %d rows", kind, id, n)
		}
	}
}
