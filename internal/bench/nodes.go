package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"drover/expertnode"
	"drover/internal/identity"
	"drover/internal/role"
	"drover/kernel"
	"drover/moe"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
)

// nodes are expert nodes in this process, reached through gRPC on loopback.
type nodes struct {
	*router.Router
	open  func() (hosting, error)
	meter *meter
	view  *placement.View
	// coordinator and node are who both ends are; nil in plain text.
	coordinator, node *identity.Source
	undo              []func()
}

// hosting is what a node computes with, until done.
type hosting struct {
	device kernel.Device
	source moe.Source // of experts in the device's memory
	done   func()
}

// startNodes places the model's experts on n nodes, in turn, which compute on a pool with
// the coordinator. Rows travel by mutual TLS unless plain text is asked for.
func startNodes(
	ctx context.Context, m *role.Model, pool *kernel.Pool, n int, plaintext bool,
) (*nodes, error) {
	return startNodesOn(ctx, m, n, plaintext, func() (hosting, error) {
		return hosting{kernel.NewCPU(pool), m.Source, func() {}}, nil
	})
}

// startNodesOn is startNodes on devices that open opens.
func startNodesOn(
	ctx context.Context, m *role.Model, n int, plaintext bool, open func() (hosting, error),
) (*nodes, error) {
	spec := m.Source.Spec()
	if len(spec.Layers) == 0 {
		return nil, fmt.Errorf("%s has no routed experts to put on nodes", m.Name())
	}
	v := &placement.View{Nodes: map[string]placement.Node{}, Plan: &placement.Plan{
		Revision: 1, Layers: spec.Layers, Experts: spec.Experts,
	}}
	for i := range n {
		v.Plan.NodeIDs = append(v.Plan.NodeIDs, fmt.Sprintf("node-%04d", i))
	}
	for range spec.Layers {
		experts := make([][]uint16, spec.Experts)
		for e := range experts {
			experts[e] = []uint16{uint16(e % n)}
		}
		v.Plan.Replicas = append(v.Plan.Replicas, experts)
	}
	ns := &nodes{open: open, meter: &meter{}, view: v}
	if !plaintext {
		if err := ns.introduce(); err != nil {
			ns.Close()
			return nil, fmt.Errorf("certificates: %w", err)
		}
	}
	for i, id := range v.Plan.NodeIDs {
		address, err := ns.start(ctx, m, id, i, n)
		if err != nil {
			ns.Close()
			return nil, fmt.Errorf("start expert node %d: %w", i, err)
		}
		v.Nodes[id] = placement.Node{ID: id, Address: address, Epoch: 1}
	}
	var err error
	if ns.Router, err = ns.route(m, router.Options{}); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// transport says how rows travel.
func transport(plaintext bool) string {
	if plaintext {
		return "plain text"
	}
	return "mutual TLS"
}

// introduce gives both ends certificates of an authority that nobody keeps.
func (ns *nodes) introduce() error {
	dir, err := os.MkdirTemp("", "drover-bench-")
	if err != nil {
		return err
	}
	ns.undo = append(ns.undo, func() { _ = os.RemoveAll(dir) })
	const name = "bench"
	now := time.Now()
	authority, err := identity.NewAuthority(name, now, 0)
	if err != nil {
		return err
	}
	for _, end := range []struct {
		role identity.Role
		to   **identity.Source
	}{{identity.Coordinator, &ns.coordinator}, {identity.ExpertNode, &ns.node}} {
		folder := filepath.Join(dir, string(end.role))
		id := identity.ID{Cluster: name, Role: end.role}
		if err := authority.Save(folder, identity.Request{ID: id, Now: now}); err != nil {
			return err
		}
		source, err := identity.Open(folder, identity.Events{})
		if err != nil {
			return err
		}
		ns.undo = append(ns.undo, source.Close)
		*end.to = source
	}
	return nil
}

// route starts a Router to the nodes. The model's fields of its options are filled in.
func (ns *nodes) route(m *role.Model, o router.Options) (*router.Router, error) {
	o.ModelDigest, o.Mode, o.Spec = m.Digest[:], m.Mode, m.Source.Spec()
	o.DialOptions = append(role.NodeDialOptions(ns.coordinator), o.DialOptions...)
	r, err := router.New(o)
	if err != nil {
		return nil, err
	}
	ns.undo = append(ns.undo, r.Close)
	r.Update(ns.view)
	return r, nil
}

// start runs node i of n, which holds every nth expert, and returns its address.
func (ns *nodes) start(
	ctx context.Context, m *role.Model, id string, i, n int,
) (address string, err error) {
	on, err := ns.open()
	if err != nil {
		return "", err
	}
	ns.undo = append(ns.undo, on.done)
	host := expertnode.NewHost(on.source, m.Mode, expertnode.HostOptions{Device: on.device})
	spec := m.Source.Spec()
	var want []expertnode.Replica
	for _, layer := range spec.Layers {
		for e := i; e < spec.Experts; e += n {
			want = append(want, expertnode.Replica{Layer: layer, Expert: e})
		}
	}
	if err := host.Assign(ctx, want); err != nil {
		return "", err
	}
	server, err := expertnode.NewServer(expertnode.Options{
		Replicas: metered{host, ns.meter}, NodeID: id, Epoch: 1,
		ModelDigest: m.Digest[:], Mode: m.Mode,
	})
	if err != nil {
		return "", err
	}
	server.SetRevision(1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		server.Close()
		return "", err
	}
	g := grpc.NewServer(append(expertnode.ServerOptions(), role.NodeServerOptions(ns.node)...)...)
	droverv1.RegisterExpertServiceServer(g, server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l) // it ends when the server is stopped
	}()
	ns.undo = append(ns.undo, func() {
		g.Stop()
		server.Close()
		<-done
	})
	return l.Addr().String(), nil
}

// Close ends the router and then the nodes.
func (ns *nodes) Close() {
	for _, f := range slices.Backward(ns.undo) {
		f()
	}
}

// Forward sends the rows out and lets the meter see when the coordinator waits for them.
func (ns *nodes) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	ns.meter.wait(true)
	defer ns.meter.wait(false)
	return ns.Router.Forward(ctx, b, func() {
		ns.meter.wait(false)
		if meanwhile != nil {
			meanwhile()
		}
		ns.meter.wait(true)
	})
}

// metered tells the meter when experts are computed.
type metered struct {
	*expertnode.Host
	meter *meter
}

func (h metered) ComputeBatch(b *moe.Batch, errs []error) {
	h.meter.compute(1)
	defer h.meter.compute(-1)
	h.Host.ComputeBatch(b, errs)
}

// meter adds up the time in which the coordinator waits for rows while some node computes: what
// is left of its waiting is the wire.
type meter struct {
	mu        sync.Mutex // guards the fields below
	waiting   bool
	computing int
	since     time.Time // when both became true
	total     time.Duration
}

func (m *meter) wait(on bool)  { m.change(func() { m.waiting = on }) }
func (m *meter) compute(n int) { m.change(func() { m.computing += n }) }
func (m *meter) both() bool    { return m.waiting && m.computing > 0 }
func (m *meter) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.both()
	f()
	switch now := time.Now(); {
	case !was && m.both():
		m.since = now
	case was && !m.both():
		m.total += now.Sub(m.since)
	}
}

// taken returns the time and starts again.
func (m *meter) taken() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.total
	m.total = 0
	return t
}
