package role

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"drover/api"
	"drover/cluster"
	"drover/coordinator"
	"drover/expertnode"
	"drover/internal/access"
	"drover/internal/identity"
	"drover/internal/metrics"
	"drover/kernel"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
)

// CoordinatorOptions describes a coordinator. ModelDir, Mode, Store and GRPC are required.
type CoordinatorOptions struct {
	ModelDir string
	Mode     kernel.Mode
	// Compute says with what.
	Compute Compute
	// ExpertDevice is what kind of devices compute the experts, cpu or one of kernel/cuda: nodes
	// of others are not used. AnyDevice lets kinds be mixed. Empty means the coordinator's own.
	ExpertDevice string
	Weights      Weights
	// Store is the cluster's authority; ClusterName its name there.
	Store       cluster.Store
	ClusterName string
	// MinNodes is how many expert nodes the first placement waits for, Replicas how many
	// copies of each expert it places. Zero means 1.
	MinNodes, Replicas int
	// MicroBatches is the most micro-batches of a step, 1 to coordinator.MaxMicroBatches.
	// Zero means that maximum. Each costs connections to all expert nodes.
	MicroBatches int
	// Spare allows extra replicas of hot experts, as a fraction of all; nodes' capacity bounds
	// them too. Zero means 0.125, a negative one none.
	Spare float64
	// LastResort is for experts that no node computes.
	LastResort LastResort
	// CheckFraction is the part of frames that two nodes compute and that are compared; see
	// router.Options.
	CheckFraction float64
	// GRPC and HTTP are the listeners to serve; a nil HTTP serves none.
	GRPC, HTTP net.Listener
	// Gossip is the coordinator's part in memberlist; the coordinator closes it.
	Gossip Gossip
	// Admin serves health and metrics.
	Admin Admin
	// AllowScore permits the Score call.
	AllowScore bool
	// ShortLease makes the cluster notice a node's end sooner; for one machine.
	ShortLease bool
	// Identity is this coordinator's. Nil means plain text to the expert nodes.
	Identity *identity.Source
	// Clients is the identity that clients see. Nil serves them plain text. Guard asks them
	// who they are; nil serves everybody, which is for loopback.
	Clients *identity.Source
	Guard   *access.Guard
	Version string
	Log     *slog.Logger
}

// Coordinator is a running coordinator.
type Coordinator struct {
	// Conn reaches the coordinator without a network.
	Conn *grpc.ClientConn

	router *router.Router // nil for a dense model
	// lastResort tells whether experts that no node holds are computed here.
	lastResort bool
	engine     *coordinator.Coordinator
	live       *health.Server
	prover     *prover
	// begun is set when the coordinator was ready for the first time.
	begun atomic.Bool
	// canaryToken is what Ready sends through the model.
	canaryToken int32
	// canaryKey tells the engine which requests are Ready's.
	canaryKey string
	registry  *prometheus.Registry
	notes     coordinatorNotes
	load      *meter              // nil for a dense model
	reserve   *expertnode.Reserve // nil without a last resort
	watcher   *cluster.Watcher
	log       *slog.Logger
	undo      stack
	lost
}

// StartCoordinator starts a coordinator. It returns when the coordinator's own part
// of the model is loaded; WaitReady waits for the experts.
func StartCoordinator(ctx context.Context, o CoordinatorOptions) (*Coordinator, error) {
	if o.MicroBatches == 0 {
		o.MicroBatches = coordinator.MaxMicroBatches
	}
	c := &Coordinator{log: o.Log}
	if err := c.start(ctx, o); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Coordinator) start(ctx context.Context, o CoordinatorOptions) error {
	c.prover, c.canaryKey = newProver(c.tryReady, c.sayReady), coordinatorID()
	c.registry = metrics.NewRegistry("coordinator", o.Version)
	o.Admin.Clients = o.Clients
	stop, err := o.Admin.Serve(c.registry, c.prover.reason, o.Log)
	if err != nil {
		return err
	}
	c.undo.push(stop)
	o.Weights.Loaded = &c.notes.weightBytes
	device, err := c.undo.device(o.Compute, o.Mode, o.Log)
	if err != nil {
		return err
	}
	c.lost = lossOf(device)
	how := o.Weights.forRole(o.Mode, device, o.Log)
	m, err := OpenModel(o.ModelDir, how)
	if err != nil {
		return err
	}
	c.undo.push(func() { _ = m.Close() }) // nothing is written; there is nothing to lose
	watcher, experts, err := c.joinCluster(ctx, o, m)
	if err != nil {
		return err
	}
	engine, err := m.engine(experts, coordinator.Options{MicroBatches: o.MicroBatches,
		Network: c.network(), AllowScore: o.AllowScore, Version: o.Version,
		CanaryKey: c.canaryKey, KernelClass: o.classes(m),
		Events: engineEvents(o.Log)})
	if err != nil {
		return err
	}
	c.engine = engine
	c.undo.push(engine.Close)
	c.canaryToken = max(m.Spec.BOS, 0)
	sayHow(o.Log, m, o.Compute.Threads)
	return c.serve(o, engine, watcher, m)
}

// joinCluster watches the cluster, takes part in planning and connects the nodes. A
// dense model has no experts and needs no planner.
func (c *Coordinator) joinCluster(ctx context.Context, o CoordinatorOptions, m *Model) (
	*cluster.Watcher, moe.Experts, error) {
	scope := cluster.Scope{Cluster: o.ClusterName, Model: m.DigestText()}
	ttl := cluster.DefaultTTL
	if o.ShortLease {
		ttl = cluster.LocalTTL
	}
	watcher, err := cluster.Watch(ctx, o.Store, cluster.WatcherOptions{Scope: scope, TTL: ttl,
		NumericMode: o.Mode.String(), KernelClass: o.expertClass(m), Form: m.FormText(),
		Events: c.notes.watch(watcherEvents(o.Log))})
	if err != nil {
		return nil, nil, err
	}
	c.undo.push(watcher.Close)
	c.watcher = watcher
	o.Gossip.report(watcher.SetSuspect)
	c.undo.push(o.Gossip.Close)
	spec := m.Source.Spec()
	if len(spec.Layers) == 0 {
		return watcher, nil, nil
	}
	load, id := newMeter(spec), coordinatorID()
	c.load = load
	planner, err := cluster.StartPlanner(ctx, o.Store, watcher, cluster.PlannerOptions{
		ID: id, Form: m.FormText(), Layers: spec.Layers, Experts: spec.Experts,
		ReplicaBytes: spec.ReplicaBytes, Replicas: o.Replicas, MinNodes: o.MinNodes,
		Spare: o.spare(), MaxMoveBytes: o.moveBytes(spec), Measure: load.measure,
		Events: c.notes.plan(plannerEvents(o.Log))})
	if err != nil {
		return nil, nil, err
	}
	c.undo.push(planner.Close)
	accuser, err := cluster.StartAccuser(ctx, o.Store, watcher, id)
	if err != nil {
		return nil, nil, err
	}
	c.undo.push(accuser.Close)
	opts := router.Options{ModelDigest: m.Digest[:], Mode: o.Mode, Spec: spec,
		KernelClass: o.expertClass(m), DialOptions: NodeDialOptions(o.Identity),
		Lanes: o.MicroBatches, CheckFraction: o.CheckFraction,
		Events: routerEvents(o.Log, accuser.Report)}
	if err := o.LastResort.open(&opts, m, &c.undo, o.Compute.Threads, o.Log); err != nil {
		return nil, nil, err
	}
	c.lastResort = opts.Local != nil
	c.reserve, _ = opts.Local.(*expertnode.Reserve)
	if c.router, err = router.New(opts); err != nil {
		return nil, nil, err
	}
	c.undo.push(c.router.Close)
	c.follow(watcher)
	return watcher, load.over(c.router), nil
}

// AnyDevice lets experts be computed by several kinds of devices.
const AnyDevice = "any"

// expertClass is the kernel class of the nodes that are used, empty for any.
func (o *CoordinatorOptions) expertClass(m *Model) string {
	switch o.ExpertDevice {
	case "":
		return m.class()
	case AnyDevice:
		return ""
	}
	return kernel.ClassOn(o.ExpertDevice, o.Mode)
}

// classes names the kernel classes that answers depend on.
func (o *CoordinatorOptions) classes(m *Model) string {
	own, experts := m.class(), o.expertClass(m)
	switch {
	case len(m.Source.Spec().Layers) == 0 || experts == own:
		return own
	case experts == "":
		experts = AnyDevice
	}
	return own + "+" + experts
}

// spare is the fraction of replicas that hot experts may have more.
func (o *CoordinatorOptions) spare() float64 {
	if o.Spare == 0 {
		return 0.125
	}
	return max(o.Spare, 0)
}

// moveBytes bounds what one plan moves for balance: an eighth of all, or as much as takes
// seconds on any network.
func (o *CoordinatorOptions) moveBytes(spec moe.Spec) int64 {
	all := spec.ReplicaBytes * int64(len(spec.Layers)*spec.Experts*max(o.Replicas, 1))
	return max(all/8, 64<<20)
}

// follow keeps the router's View up to date.
func (c *Coordinator) follow(w *cluster.Watcher) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			changed := w.Changes()
			c.router.Update(w.View())
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	c.undo.push(func() {
		cancel()
		<-done
	})
}

// serve opens the coordinator's services.
func (c *Coordinator) serve(o CoordinatorOptions, engine *coordinator.Coordinator,
	watcher *cluster.Watcher, m *Model) error {
	c.live = health.NewServer()
	c.live.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	closing := make(chan struct{})
	nodes := cluster.NewServer(cluster.ServerOptions{
		Watcher: watcher, Store: o.Store, Host: hostName(), RowsByNode: c.rowsByNode,
		Quarantined: c.quarantined, Dispatched: c.dispatched, Unreachable: c.unreachable,
		ReplicaBytes: m.Source.Spec().ReplicaBytes})
	if !c.lastResort {
		c.prover.links = c.connected // which is asked only after the first proof
	}
	register := func(s grpc.ServiceRegistrar) {
		engine.Register(s)
		healthv1.RegisterHealthServer(s, healthServer{c.live, closing})
		droverv1.RegisterClusterServiceServer(s, nodes)
	}
	c.measure(m.Name(), nodes)
	conn, stop, err := connect(register)
	if err != nil {
		return err
	}
	c.undo.push(stop)
	c.Conn = conn
	g := grpc.NewServer(slices.Concat(recovery(), connections(), o.clientServer())...)
	register(g)
	reflection.Register(g)
	c.undo.push(serveGently(g, spoken{bound(o.GRPC, ofFiles(clientPart), o.Log)}))
	if o.HTTP != nil {
		c.serveHTTP(o)
	}
	c.undo.push(func() {
		c.live.Shutdown()
		close(closing)
		engine.Close() // open requests end with UNAVAILABLE: clients resume them elsewhere
	})
	return nil
}

// clientServer are the options of the gRPC server for clients.
func (o *CoordinatorOptions) clientServer() (opts []grpc.ServerOption) {
	if o.Clients != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(o.clientTLS())))
	}
	if o.Guard != nil {
		opts = append(opts, o.Guard.ServerOptions()...)
	}
	return opts
}

// clientTLS lets clients come without a certificate: the Guard asks them.
func (o *CoordinatorOptions) clientTLS() *tls.Config {
	return o.Clients.OpenServer(identity.Client, identity.Coordinator)
}

func (c *Coordinator) serveHTTP(o CoordinatorOptions) {
	options := api.Options{Unready: c.prover.reason, MaxBodyBytes: coordinator.MaxRequestBytes}
	bounds := bound(o.HTTP, ofFiles(clientPart), o.Log)
	l := net.Listener(bounds)
	if o.Guard != nil {
		options.Authorize = o.Guard.HTTP
	}
	server := api.New(c.Conn, options)
	server.ErrorLog = errorLog(c.log)
	bounds.serveHTTP(server)
	if o.Clients != nil {
		server.TLSConfig = o.clientTLS()
		l = tls.NewListener(l, server.TLSConfig)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); err != http.ErrServerClosed {
			c.log.Error("the HTTP server ended", "error", err)
		}
	}()
	c.undo.push(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		if server.Shutdown(ctx) != nil { // the time is up
			_ = server.Close()
		}
		<-done
	})
}

// network tells what the router measured, if there is one.
func (c *Coordinator) network() func() (oneWay, there time.Duration) {
	if c.router == nil {
		return nil
	}
	return func() (oneWay, there time.Duration) {
		n := c.router.Network()
		return n.OneWay, n.Node
	}
}

func (c *Coordinator) rowsByNode() map[string]uint64 {
	if c.router == nil {
		return nil
	}
	return c.router.RowsByNode()
}

func (c *Coordinator) dispatched() *droverv1.Dispatched {
	if c.router == nil {
		return nil
	}
	s := c.router.Stats()
	return &droverv1.Dispatched{Rows: s.Rows, HedgedRows: s.HedgedRows, ProbedRows: s.ProbedRows,
		CheckedRows: s.CheckedRows}
}

func (c *Coordinator) quarantined(nodeID string) bool {
	return c.router != nil && c.router.Quarantined(nodeID)
}

// unreachable says of the nodes without a link why, for people.
func (c *Coordinator) unreachable() map[string]string {
	if c.router == nil {
		return nil
	}
	why := map[string]string{}
	for id, o := range c.router.Outages() {
		why[id] = fmt.Sprintf("no link to it for %v: %s. It is dead, cut off, or refuses, as the error "+
			"says; its rows go elsewhere. It stays registered until its lease in etcd ends.",
			o.Down.Round(time.Second/10), o.Reason)
	}
	return why
}

// Ready returns nil if a token has passed through every layer: the canary or, while that
// waits behind requests, one of theirs. Every expert must have a connected replica then,
// unless the coordinator computes those that have none.
func (c *Coordinator) Ready(ctx context.Context) error {
	if !c.lastResort {
		if err := c.connected(); err != nil {
			return err
		}
	}
	before := c.engine.Stats()
	err := canary(coordinator.CanaryContext(ctx, c.canaryKey),
		droverv1.NewCoordinatorServiceClient(c.Conn), c.canaryToken)
	after := c.engine.Stats()
	if status.Code(err) == codes.DeadlineExceeded &&
		after.Steps-after.FailedSteps > before.Steps-before.FailedSteps {
		return nil
	}
	return err
}

// connected returns nil if every expert has a connected replica.
func (c *Coordinator) connected() error {
	if c.router == nil {
		return nil
	}
	return c.router.Ready()
}

// Close ends the coordinator: it stops serving first, and leaves the cluster last.
func (c *Coordinator) Close() { c.undo.run() }

// coordinatorID names this process among coordinators.
func coordinatorID() string {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // it never fails
	return hostName() + "-" + hex.EncodeToString(id)
}

func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}
