package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"drover/cluster"
	"drover/expertnode"
	"drover/internal/fetch"
	"drover/internal/identity"
	"drover/internal/metrics"
	"drover/internal/pull"
	"drover/internal/show"
	"drover/kernel"
	"drover/model"
	"drover/packed"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// ExpertNodeOptions describes an expert node. ModelDir, Mode, Store and ID are required.
type ExpertNodeOptions struct {
	// ModelDir is the checkpoint's directory; only the node's slice of it is read.
	ModelDir string
	Mode     kernel.Mode
	// Compute says with what.
	Compute Compute
	Weights Weights
	// Store is the cluster's authority; ClusterName its name there.
	Store       cluster.Store
	ClusterName string
	// ID names the node, also over restarts; Epoch, of NewEpoch, names this life of it.
	ID    string
	Epoch uint64
	// Listen is the address of the ExpertService; port 0 takes a free one.
	Listen string
	// Advertise is the address that others use. Empty means the one that is listened on, or
	// where that is all of the machine's, the only one of them that others can reach.
	Advertise string
	// MemoryBytes is how much memory the process may take; zero means any amount. Without
	// CapacityBytes it bounds what the node offers to hold.
	MemoryBytes int64
	// CapacityBytes bounds the packed weights. Zero means that all experts fit.
	CapacityBytes int64
	// Domain is the failure domain. Empty means the host.
	Domain string
	// From says where replicas come from, beside the cache of packed weights.
	From fetch.Preference
	// Rest is where experts come from that ModelDir, a slice, lacks. Without a source none do.
	Rest pull.Options
	// FetchBytesPerSecond bounds what the node sends of its weights to others, as in
	// expertnode.Options.
	FetchBytesPerSecond int64
	// Identity is this node's. Nil means that it serves, and fetches, in plain text.
	Identity *identity.Source
	// ModelDigest names the weights, in hexadecimal digits, if they are fetched from nodes only.
	// Empty takes what the cluster's coordinators say.
	ModelDigest string
	// Admin serves health and metrics.
	Admin Admin
	// Version is this program's, for the metrics.
	Version string
	// Gossip is the node's part in memberlist, under the node's ID; the node closes it.
	Gossip Gossip
	// ShortLease makes the cluster notice the node's end sooner; for one machine.
	ShortLease bool
	// Wrap, if not nil, changes what computes, and ServerOptions are added to the gRPC
	// server's: for tests of faults.
	Wrap          func(expertnode.Replicas) expertnode.Replicas
	ServerOptions []grpc.ServerOption
	Log           *slog.Logger
}

// ExpertNode is a running expert node.
type ExpertNode struct {
	// Address is where the ExpertService listens.
	Address string
	member  *cluster.Member
	server  *expertnode.Server
	log     *slog.Logger
	live    *health.Server
	holds   holds
	lost

	registry                     *prometheus.Registry
	storeAway, draining, closing atomic.Bool
	gone                         atomic.Bool // the device is

	unfit chan error    // why the node cannot do what it offered
	over  chan struct{} // closed when the node is of no more use
	why   error         // set before over is closed

	undo stack
}

// StartExpertNode starts an expert node. It returns when the node serves; the cluster
// assigns its experts afterwards.
func StartExpertNode(ctx context.Context, o ExpertNodeOptions) (*ExpertNode, error) {
	n := &ExpertNode{log: o.Log, unfit: make(chan error, 1), over: make(chan struct{})}
	if err := n.start(ctx, o); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *ExpertNode) start(ctx context.Context, o ExpertNodeOptions) error {
	n.registry = metrics.NewRegistry("expertnode", o.Version)
	stop, err := o.Admin.Serve(n.registry, n.unready, o.Log)
	if err != nil {
		return err
	}
	n.undo.push(stop)
	m, how, err := n.open(ctx, o)
	if err != nil {
		return err
	}
	n.lost = lossOf(m.Device)
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listen for rows: %w", err)
	}
	n.undo.push(func() { _ = listener.Close() }) // its server closes it before
	n.Address = listener.Addr().String()
	rest, err := n.undo.rest(o.Rest, m.Checkpoint, o.Log)
	if err != nil {
		return err
	}
	node, err := o.node(m, n.Address, rest.memory())
	if err != nil {
		return err
	}
	source, err := fetch.New(fetch.Options{Checkpoint: m.Checkpoint, Model: how, NodeID: o.ID,
		From: o.From, Absent: rest.absent(), Dial: NodeDialOptions(o.Identity),
		Events: fetchEvents(o.Log)})
	if err != nil {
		return err
	}
	n.undo.push(source.Close)
	host := expertnode.NewHost(source, o.Mode, expertnode.HostOptions{
		CapacityBytes: node.CapacityBytes, Device: m.Device})
	served, ahead := expertnode.Replicas(host), expertnode.Ahead(host)
	if o.Wrap != nil { // what computes must go through it
		served, ahead = o.Wrap(host), nil
	}
	server, err := expertnode.NewServer(expertnode.Options{
		Replicas: served, Ahead: ahead, NodeID: node.ID, Epoch: node.Epoch,
		ModelDigest: m.Digest[:], Mode: o.Mode, KernelClass: m.class(),
		CheckpointBytes: func() uint64 { return uint64(m.Checkpoint.BytesTouched()) },
		Packed:          source, PackedVersion: packed.Version,
		FetchBytesPerSecond: o.FetchBytesPerSecond,
		Events:              nodeEvents(o.Log),
	})
	if err != nil {
		return err
	}
	n.undo.push(server.Close)
	n.server = server
	n.serve(listener, server, append(NodeServerOptions(o.Identity), o.ServerOptions...))
	n.watchDevice()
	sayHow(o.Log, m, o.Compute.Threads)
	p := parts{source, host, server, rest}
	n.measure(p)
	return n.join(ctx, o, node, p)
}

// open opens what computes, and the model: on the CPU if auto finds a GPU whose memory has no
// room for an expert.
func (n *ExpertNode) open(ctx context.Context, o ExpertNodeOptions) (*Model, model.Options, error) {
	for c := o.Compute; ; c.Device = deviceCPU {
		var opened stack
		m, how, err := o.openOn(ctx, c, &opened)
		if err == nil {
			_, err = m.room()
		}
		if err == nil {
			n.undo.push(opened.run)
			return m, how, nil
		}
		opened.run()
		if m == nil || c.Device != deviceAuto {
			return nil, how, err
		}
		o.Log.Info("no GPU computes here", "reason", err)
	}
}

// openOn opens a device and the model for it. Both are open until the stack is undone.
func (o *ExpertNodeOptions) openOn(ctx context.Context, c Compute, s *stack) (
	m *Model, how model.Options, err error) {
	device, err := s.device(c, o.Mode, o.Log)
	if err != nil {
		return nil, how, err
	}
	how = o.Weights.forRole(o.Mode, device, o.Log)
	if m, err = o.openModel(ctx, how); err != nil {
		return nil, how, err
	}
	s.push(func() { _ = m.Close() }) // nothing is written; there is nothing to lose
	return m, how, nil
}

// Lost is closed when the node is of no more use, since its device is lost, or since its memory
// did not suffice for any of what the node offered. It takes no more rows then.
func (n *ExpertNode) Lost() <-chan struct{} { return n.over }

// Err is why the node is of no more use, or nil.
func (n *ExpertNode) Err() error {
	select {
	case <-n.over:
		return n.why
	default:
		return nil
	}
}

// giveUp makes the node take no more frames: whoever asks goes elsewhere at once. It is the
// caller's to end the node.
func (n *ExpertNode) giveUp(what string, why error) {
	n.draining.Store(true)
	n.sayReady(func(*holds) { n.gone.Store(true) })
	n.server.Drain()
	n.log.Error(what+": this node takes no more rows", "error", why)
	n.why = why
	close(n.over)
}

// assign loads replicas. If the device's memory does not suffice although it held none, what the
// node offered was wrong, and so is its part of every plan.
func (n *ExpertNode) assign(ctx context.Context, host *expertnode.Host,
	r []placement.Replica) error {
	none := host.Count() == 0
	err := host.Assign(ctx, replicas(r))
	if errors.Is(err, kernel.ErrMemory) && none {
		select {
		case n.unfit <- fmt.Errorf("%w: the GPU had more free memory when the node started; end "+
			"what else is on it, or set --capacity", err):
		default: // it is known
		}
	}
	return err
}

// watchDevice gives up when the device is lost, or does not suffice.
func (n *ExpertNode) watchDevice() {
	closing := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-n.lost.Lost():
			n.giveUp("the device is lost", n.lost.Err())
		case err := <-n.unfit:
			n.giveUp("experts do not fit the device", err)
		case <-closing:
		}
	}()
	n.undo.push(func() {
		close(closing)
		<-done
	})
}

// parts are what a node is made of.
type parts struct {
	source *fetch.Source
	host   *expertnode.Host
	server *expertnode.Server
	rest   *rest
}

// nodeReserve is the memory that a node takes beside the replicas that it holds.
const nodeReserve = 32 << 20

// node describes the node, which listens on address, to the cluster. Loading takes so many
// bytes of memory.
func (o *ExpertNodeOptions) node(m *Model, address string, loading int64) (placement.Node, error) {
	node := placement.Node{
		ID: o.ID, Address: o.Advertise, Epoch: o.Epoch,
		CapacityBytes: o.CapacityBytes, Domain: o.Domain,
		KernelClass: m.class(), ModelDigest: m.DigestText(),
		ModelForm: m.FormText(), DigestFrom: m.digestFrom, Host: hostName(), PID: os.Getpid(),
	}
	if node.Address == "" {
		var err error
		if node.Address, err = reachable(address, net.InterfaceAddrs); err != nil {
			return node, err
		}
	}
	if node.Domain == "" {
		node.Domain = hostName()
	}
	spec := m.Source.Spec()
	beside := nodeReserve + loading
	room := o.MemoryBytes - beside
	if o.MemoryBytes > 0 && room < spec.ReplicaBytes {
		return node, fmt.Errorf("a memory limit of %s is too small: an expert takes %s, and a node "+
			"%s besides; raise the limit", show.Bytes(uint64(o.MemoryBytes)),
			show.Bytes(uint64(spec.ReplicaBytes)), show.Bytes(uint64(beside)))
	}
	if node.CapacityBytes > 0 && node.CapacityBytes < spec.ReplicaBytes {
		return node, fmt.Errorf("a capacity of %d bytes is too small: an expert takes %d; raise it",
			node.CapacityBytes, spec.ReplicaBytes)
	}
	onDevice, err := m.room()
	if err != nil {
		return node, err
	}
	if onDevice > 0 { // the process's memory holds no weights
		if room = onDevice; node.CapacityBytes > room {
			return node, fmt.Errorf("a capacity of %s is more than the %s that the GPU has room for",
				show.Bytes(uint64(node.CapacityBytes)), show.Bytes(uint64(room)))
		}
	}
	if node.CapacityBytes == 0 {
		all := spec.ReplicaBytes * int64(len(spec.Layers)) * int64(spec.Experts)
		node.CapacityBytes = max(all, 1)
		if o.MemoryBytes > 0 || onDevice > 0 {
			node.CapacityBytes = min(node.CapacityBytes, room)
		}
	}
	return node, nil
}

// serve opens the ExpertService.
func (n *ExpertNode) serve(listener net.Listener, server *expertnode.Server,
	more []grpc.ServerOption) {
	g := grpc.NewServer(append(expertnode.ServerOptions(), more...)...)
	droverv1.RegisterExpertServiceServer(g, server)
	n.live = health.NewServer()
	n.live.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(g, n.live)
	reflection.Register(g)
	n.undo.push(serve(g, listener))
}

// join makes the node known and lets the placement reach it.
func (n *ExpertNode) join(ctx context.Context, o ExpertNodeOptions, node placement.Node,
	p parts) error {
	cfg := cluster.NodeConfig{Cluster: o.ClusterName, Node: node, NumericMode: o.Mode.String(),
		Events: memberEvents(o.Log)}
	log := cfg.Events.StoreAway
	cfg.Events.StoreAway = func(err error) {
		n.storeAway.Store(err != nil)
		log(err)
	}
	cfg.Events.Ready = func(revision uint64) {
		n.sayReady(func(h *holds) { h.loaded.Store(revision) })
		s, err := p.server.Status(ctx, &droverv1.StatusRequest{})
		if err != nil {
			o.Log.Error("read the node's own status", "error", err)
			return
		}
		fetched, bytes := p.source.Fetched()
		o.Log.Info("experts are ready", "revision", revision, "replicas", s.ReplicaCount,
			"weight_bytes", s.WeightBytes, "fetched", fetched, "bytes_fetched", bytes,
			"bytes_pulled", p.rest.bytes(), "checkpoint_bytes_read", s.CheckpointBytesRead,
			"resident_bytes", s.ResidentBytes)
	}
	if o.ShortLease {
		cfg.TTL, cfg.Grace = cluster.LocalTTL, shortGrace
	}
	member, err := cluster.Join(ctx, o.Store, cfg, cluster.Hooks{
		Locate: p.source.Locate,
		Assign: func(ctx context.Context, r []placement.Replica) error {
			return n.assign(ctx, p.host, r)
		},
		Commit: func(revision uint64, _ []placement.Replica) {
			p.server.SetRevision(revision)
			n.sayReady(func(h *holds) { h.committed.Store(revision) })
		},
		Drop: func(r []placement.Replica) { p.host.Drop(replicas(r)) },
	})
	if err != nil {
		return err
	}
	n.member = member
	n.undo.push(member.Close)
	n.undo.push(o.Gossip.Close)
	n.undo.push(func() { // it says that it is not ready before it is not
		n.closing.Store(true)
		n.live.Shutdown()
	})
	return nil
}

// shortGrace is how long replicas outlive their plan where all is on one machine.
const shortGrace = 500 * time.Millisecond

// drainLog is how often a drain says how far it is.
const drainLog = 2 * time.Second

// Drain empties the node before it leaves: other nodes load its replicas, the placement is
// switched, the last frames are answered. It returns early, and says so in the log, when ctx
// ends; then requests that need the node's replicas go elsewhere, as after a crash.
func (n *ExpertNode) Drain(ctx context.Context) {
	began := time.Now()
	n.draining.Store(true)
	n.log.Info("draining", "replicas", n.member.Serving())
	done := make(chan error, 1)
	go func() { done <- n.member.Drain(ctx) }()
	tick := time.NewTicker(drainLog)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.log.Info("draining", "replicas", n.member.Serving(),
				"since", time.Since(began).Round(time.Second))
			continue
		case err := <-done:
			n.server.Drain()
			if err != nil {
				n.log.Warn("left before others took over", "replicas", n.member.Serving(),
					"reason", err)
				return
			}
			if !n.server.Idle(ctx) {
				n.log.Warn("left with frames under way")
				return
			}
			n.log.Info("drained", "took", time.Since(began).Round(time.Millisecond))
			return
		}
	}
}

// Close leaves the cluster and ends the node.
func (n *ExpertNode) Close() { n.undo.run() }

// replicas turns the placement's replicas into the host's.
func replicas(from []placement.Replica) []expertnode.Replica {
	to := make([]expertnode.Replica, len(from))
	for i, r := range from {
		to[i] = expertnode.Replica{Layer: r.Layer, Expert: r.Expert}
	}
	return to
}

func nodeEvents(log *slog.Logger) expertnode.Events {
	var refused, floods rarely
	return expertnode.Events{
		FrameRefused: func(address string, frameID uint64, s wire.Status, detail string) {
			if s == wire.StatusNotHosted { // as it happens when a placement changes
				log.Debug("a frame asks for an expert that is not here", "address", address,
					"frame", frameID, "detail", detail)
			} else if frames, say := refused.add(1, time.Now()); say {
				log.Warn("frames are refused", "frames", frames, "address", address,
					"frame", frameID, "status", s.String(), "detail", detail)
			}
		},
		PingFlood: func(address string) {
			if streams, say := floods.add(1, time.Now()); say {
				log.Warn("a stream is ended since too many pings come on it", "streams", streams,
					"address", address)
			}
		},
		StreamOpened: func(address string) { log.Debug("coordinator connected", "address", address) },
		StreamClosed: func(address string, err error) {
			log.Debug("coordinator disconnected", "address", address, "reason", err)
		},
		Fetched: func(f expertnode.FetchedReplica) {
			log.Debug("sent a replica to another node", "layer", f.Replica.Layer,
				"expert", f.Replica.Expert, "to", f.To, "bytes", f.Bytes, "took", f.Took)
		},
		ComputePanicked: func(layer int, experts []int32, value any, stack []byte) {
			log.Error("computing experts panicked: this is a bug", "layer", layer,
				"experts", experts, "value", value, "stack", string(stack))
		},
	}
}

func fetchEvents(log *slog.Logger) fetch.Events {
	return fetch.Events{
		Fetched: func(r placement.Replica, id string, bytes, from int64) {
			log.Debug("fetched a replica", "layer", r.Layer, "expert", r.Expert, "node", id,
				"bytes", bytes, "from_offset", from)
		},
		Failed: func(r placement.Replica, id string, err error) {
			log.Warn("a node did not give a replica", "layer", r.Layer, "expert", r.Expert,
				"node", id, "error", err)
		},
		FellBack: func(r placement.Replica, err error) {
			log.Warn("a replica is read from the checkpoint", "layer", r.Layer, "expert", r.Expert,
				"reason", err)
		},
		Disagreed: func(r placement.Replica, ids [2]string) {
			log.Error("two nodes hold different weights for one replica: one is broken or has "+
				"another checkpoint of the same configuration", "layer", r.Layer, "expert", r.Expert,
				"nodes", ids)
		},
	}
}

func memberEvents(log *slog.Logger) cluster.MemberEvents {
	return cluster.MemberEvents{
		Registered: func() { log.Info("registered in etcd") },
		StoreAway:  func(err error) { logAway(log, err) },
		Assigning: func(revision uint64, n int) {
			log.Info("loading experts", "revision", revision, "replicas", n)
		},
		AssignFailed: func(revision uint64, err error) {
			log.Error("loading experts", "revision", revision, "error", err)
		},
		Quarantined: func(reason string) {
			log.Error("this node is not used any more", "reason", reason)
		},
		Replaced: func(epoch uint64) {
			log.Error("another process has registered under this node's id", "epoch", epoch)
		},
	}
}

// logAway reports that etcd is away, or back.
func logAway(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("etcd does not answer; the placement stays as it is", "error", err)
	} else {
		log.Info("etcd answers again")
	}
}
