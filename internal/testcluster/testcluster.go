// Package testcluster builds a coordinator and expert nodes in one process, for
// tests that ask whether the bytes of an answer depend on anything they must not.
// The nodes are real gRPC servers on loopback; the placement is the test's own.
package testcluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"drover/checkpoint"
	"drover/coordinator"
	"drover/expertnode"
	"drover/kernel"
	"drover/model"
	"drover/moe"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
	"drover/tokenizer"
)

// Options describes a cluster.
type Options struct {
	// Dir is the model's directory. Empty means the demo model.
	Dir string
	// Mode is the numeric mode. Zero means exact.
	Mode kernel.Mode
	// Nodes is the number of expert nodes; 0 computes experts in process, without a
	// network.
	Nodes int
	// Threads is how many threads compute in the coordinator and in each node. Zero
	// means one.
	Threads int
	// Place returns the nodes that hold an expert. Nil means one node for each, in
	// turn.
	Place func(layer, expert int) []uint16
	// Coordinator tunes the engine; the model's fields of it are filled in.
	Coordinator coordinator.Options
	// Router tunes the router; the model's fields of it are filled in.
	Router router.Options
}

// Cluster is a running cluster.
type Cluster struct {
	droverv1.CoordinatorServiceClient

	Coordinator *coordinator.Coordinator
	Router      *router.Router // nil without nodes
	Nodes       []*Node
	View        *placement.View
	// Conn reaches the coordinator.
	Conn *grpc.ClientConn
}

// Node is one expert node.
type Node struct {
	ID     string
	Host   *expertnode.Host
	Server *expertnode.Server
	GRPC   *grpc.Server
}

func (o *Options) setDefaults() {
	if o.Dir == "" {
		o.Dir = Path("models/tiny-maverick")
	}
	if o.Mode == 0 {
		o.Mode = kernel.Exact
	}
}

// Start runs a cluster until the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	o.setDefaults()
	ck, err := checkpoint.Open(o.Dir)
	check(t, err)
	t.Cleanup(func() { _ = ck.Close() })
	source, err := model.OpenExperts(ck, model.Options{Mode: o.Mode, Device: device(t, o.Threads)})
	check(t, err)
	c := &Cluster{}
	c.coordinate(t, o, ck, c.experts(t, o, ck, source))
	return c
}

// Another starts a second coordinator over the same nodes, with a router and an engine of
// its own: o must be as the cluster's, but for Threads, Coordinator and Router.
func (c *Cluster) Another(t testing.TB, o Options) *Cluster {
	t.Helper()
	o.setDefaults()
	ck, err := checkpoint.Open(o.Dir)
	check(t, err)
	t.Cleanup(func() { _ = ck.Close() })
	source, err := model.OpenExperts(ck, model.Options{Mode: o.Mode})
	check(t, err)
	second := &Cluster{Nodes: c.Nodes, View: c.View}
	second.coordinate(t, o, ck, second.route(t, o, ck, source))
	return second
}

// coordinate starts the coordinator over what computes the experts.
func (c *Cluster) coordinate(t testing.TB, o Options, ck *checkpoint.Checkpoint,
	experts moe.Experts) {
	t.Helper()
	m, err := model.Open(ck, model.Options{Mode: o.Mode, Device: device(t, o.Threads)}, experts)
	check(t, err)
	tok, err := tokenizer.Load(o.Dir)
	check(t, err)
	o.Coordinator.Name, o.Coordinator.AllowScore = filepath.Base(o.Dir), true
	c.Coordinator, err = coordinator.New(m, tok, o.Coordinator)
	check(t, err)
	t.Cleanup(c.Coordinator.Close)
	c.Conn = serve(t, c.Coordinator)
	c.CoordinatorServiceClient = droverv1.NewCoordinatorServiceClient(c.Conn)
}

// device is a CPU with threads of its own until the test ends.
func device(t testing.TB, threads int) kernel.Device {
	if threads <= 1 {
		return nil
	}
	pool := kernel.NewPool(threads)
	t.Cleanup(pool.Close)
	return kernel.NewCPU(pool)
}

// Path turns a path from the project's root into one that a test can open.
func Path(fromRoot string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../..", fromRoot)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// experts starts what computes the experts.
func (c *Cluster) experts(t testing.TB, o Options, ck *checkpoint.Checkpoint,
	source moe.Source) moe.Experts {
	t.Helper()
	if o.Nodes == 0 {
		host := expertnode.NewHost(source, o.Mode,
			expertnode.HostOptions{Device: device(t, o.Threads)})
		check(t, host.LoadAll(t.Context()))
		return host
	}
	digest := ck.Digest()
	c.View = &placement.View{Plan: plan(source.Spec(), o), Nodes: map[string]placement.Node{}}
	for _, id := range c.View.Plan.NodeIDs {
		address := c.startNode(t, id, o, source, digest[:])
		c.View.Nodes[id] = placement.Node{ID: id, Address: address, Epoch: 1}
	}
	return c.route(t, o, ck, source)
}

// route starts a router over the nodes.
func (c *Cluster) route(t testing.TB, o Options, ck *checkpoint.Checkpoint,
	source moe.Source) moe.Experts {
	t.Helper()
	digest := ck.Digest()
	o.Router.ModelDigest, o.Router.Mode, o.Router.Spec = digest[:], o.Mode, source.Spec()
	r, err := router.New(o.Router)
	check(t, err)
	t.Cleanup(r.Close)
	r.Update(c.View)
	c.Router = r
	return r
}

// plan places every expert.
func plan(spec moe.Spec, o Options) *placement.Plan {
	p := &placement.Plan{Revision: 1, Layers: spec.Layers, Experts: spec.Experts}
	for i := range o.Nodes {
		p.NodeIDs = append(p.NodeIDs, fmt.Sprintf("node-%02d", i))
	}
	for _, layer := range spec.Layers {
		var experts [][]uint16
		for e := range spec.Experts {
			on := []uint16{uint16(e % o.Nodes)}
			if o.Place != nil {
				on = slices.Clone(o.Place(layer, e))
				slices.Sort(on)
			}
			experts = append(experts, on)
		}
		p.Replicas = append(p.Replicas, experts)
	}
	return p
}

func (c *Cluster) startNode(t testing.TB, id string, o Options, source moe.Source,
	digest []byte) string {
	t.Helper()
	host := expertnode.NewHost(source, o.Mode,
		expertnode.HostOptions{Device: device(t, o.Threads)})
	var want []expertnode.Replica
	for _, r := range c.View.Plan.Holds(id) {
		want = append(want, expertnode.Replica{Layer: r.Layer, Expert: r.Expert})
	}
	check(t, host.Assign(t.Context(), want))
	server, err := expertnode.NewServer(expertnode.Options{
		Replicas: host, NodeID: id, Epoch: 1, ModelDigest: digest, Mode: o.Mode,
	})
	check(t, err)
	server.SetRevision(c.View.Plan.Revision)
	g := grpc.NewServer(expertnode.ServerOptions()...)
	droverv1.RegisterExpertServiceServer(g, server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener) // it ends when the server is stopped
	}()
	t.Cleanup(func() {
		g.Stop()
		server.Close()
		<-done
	})
	c.Nodes = append(c.Nodes, &Node{ID: id, Host: host, Server: server, GRPC: g})
	return listener.Addr().String()
}

// serve gives a coordinator a connection without a network.
func serve(t testing.TB, c *coordinator.Coordinator) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	c.Register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener) // it ends when the server is stopped
	}()
	conn, err := grpc.NewClient("passthrough:///cluster",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}))
	check(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		g.Stop()
		<-done
	})
	return conn
}
