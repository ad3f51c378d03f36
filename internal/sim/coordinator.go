package sim

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"drover/cluster"
	"drover/coordinator"
	"drover/expertnode"
	"drover/kernel"
	"drover/placement"
	"drover/router"
	"drover/wire"
)

// process is one coordinator: its watcher, planner, router and engine are those of a real
// one.
type process struct {
	world   *world
	slot    int // in world.processes
	id      string
	gate    *gate // of what it does with the store
	cancel  context.CancelFunc
	watcher *cluster.Watcher
	planner *cluster.Planner
	accuser *cluster.Accuser
	router  *router.Router
	reserve *expertnode.Reserve // nil without a last resort
	engine  *coordinator.Coordinator
	plans   *storeClient // the planner's way to the store
	views   *storeClient // the watcher's
	running sync.WaitGroup
	hot     atomic.Int64 // the expert that is hot, plus one
	fails   atomic.Int64 // loads of the own host that are to fail
	ready   atomic.Bool  // as it says

	// Only world.look touches the fields below.
	reach        reach
	reachSince   time.Time
	unreadySince time.Time // or when it was last ready
	lied         bool
}

// startProcess starts a coordinator, the one of a place in world.processes.
func (w *world) startProcess(slot int, id string) *process {
	p := &process{world: w, slot: slot, id: id, gate: newGate()}
	p.plans, p.views = w.store.client(id, p.gate), w.store.client(id, p.gate)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	var err error
	p.watcher, err = cluster.Watch(ctx, p.views, cluster.WatcherOptions{
		Scope: cluster.Scope{Cluster: clusterName, Model: modelName}, TTL: cluster.LocalTTL,
		NumericMode: mode.String(), KernelClass: kernel.Class(mode)})
	w.must(err)
	p.planner, err = cluster.StartPlanner(ctx, p.plans, p.watcher, p.plannerOptions())
	w.must(err)
	p.accuser, err = cluster.StartAccuser(ctx, p.plans, p.watcher, id)
	w.must(err)
	p.router, err = router.New(p.routerOptions())
	w.must(err)
	p.running.Go(func() { p.follow(ctx) })
	p.engine, err = coordinator.New(newTiny(p.router, w.scenario.Think), nil,
		coordinator.Options{Name: "simulated", KVBytes: 1 << 20, MaxSequences: 8})
	w.must(err)
	p.running.Go(func() { p.keepReady(ctx) })
	p.running.Go(func() { p.keepLinks(ctx) })
	w.say("coordinator %s starts", id)
	return p
}

func (p *process) plannerOptions() cluster.PlannerOptions {
	w := p.world
	return cluster.PlannerOptions{ID: p.id, Layers: moeLayers, Experts: experts,
		ReplicaBytes: replicaBytes(), Replicas: w.scenario.Replicas, MinNodes: w.minNodes(),
		RebalanceEvery: time.Second, LoadTimeout: 5 * time.Second, Measure: p.measure,
		Events: cluster.PlannerEvents{
			Elected: func(elected bool) { w.say("coordinator %s elected: %t", p.id, elected) },
			Intended: func(revision uint64, why placement.Explanation) {
				w.say("coordinator %s intends revision %d: %d added, %d dropped", p.id, revision,
					why.Added, why.Dropped)
			},
			Committed: func(revision uint64) {
				w.say("coordinator %s committed revision %d", p.id, revision)
			},
			Refused: func(err error) { w.say("coordinator %s makes no plan: %v", p.id, err) },
			LeftOut: func(id string) { w.say("coordinator %s leaves %s out", p.id, id) },
			Limited: func(id, reason string, pause time.Duration) {
				w.say("coordinator %s gives %s no more for %v: %s", p.id, id, pause, reason)
			},
		}}
}

// minNodes is what the first plan waits for. Should the store lose everything later, there
// may be fewer nodes than at first.
func (w *world) minNodes() int {
	if w.starts > 0 {
		return 1
	}
	return w.scenario.Nodes
}

// measure says that all experts are equally hot, or one of each layer much hotter.
func (p *process) measure() cluster.Measured {
	m := cluster.Measured{Load: make([][]float64, len(moeLayers))}
	hot := int(p.hot.Load()) - 1
	for l := range m.Load {
		m.Load[l] = make([]float64, experts)
		for e := range m.Load[l] {
			if m.Load[l][e] = 100; e == hot {
				m.Load[l][e] = 2000
			}
		}
	}
	if hot >= 0 {
		p.world.fired.fire(LoadShift)
	}
	return m
}

func (p *process) routerOptions() router.Options {
	w := p.world
	o := router.Options{ModelDigest: digest, Mode: mode, Spec: spec(), Lanes: w.scenario.Lanes,
		CheckFraction: w.scenario.Check,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(p.dial),
			grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes)},
		Events: router.Events{
			LinkDown: func(id string, lane int, err error) {
				w.say("%s lost lane %d to %s: %v", p.id, lane, id, err)
			},
			Suspected: func(id string, lane int) { w.say("%s suspects %s", p.id, id) },
			Retried: func(id string, layer, n int, err error) {
				w.refused(err)
				w.say("%s sends %d experts of layer %d again, not %s: %v", p.id, n, layer, id, err)
			},
			Quarantined: func(v router.Verdict) {
				w.say("%s quarantines %s", p.id, v.NodeID)
				p.accuser.Report(cluster.Finding(v))
			},
			Disputed: func(ids []string, _, _ int) { w.say("%s: %v disagree", p.id, ids) },
			LastResort: func(layer, first, n int, err error) {
				w.say("%s computes %d experts of layer %d itself: %v", p.id, n, layer, err)
			},
		}}
	if w.scenario.Local {
		p.reserve = expertnode.NewReserve(source{p.beforeLoad}, mode, kernel.NewCPU(nil),
			3*replicaBytes())
		o.Local = p.reserve
	}
	return o
}

// refused notes that a node refused to compute.
func (w *world) refused(err error) {
	if strings.Contains(err.Error(), wire.StatusOverloaded.String()) {
		w.fired.fire(NodeOverloaded)
	}
}

// beforeLoad is what the coordinator's own host meets when it reads an expert's weights.
func (p *process) beforeLoad() error {
	time.Sleep(200 * time.Microsecond)
	if p.fails.Add(-1) >= 0 {
		p.world.fired.fire(LocalError)
		return errUnreadable
	}
	p.fails.Store(0)
	return nil
}

func (p *process) dial(ctx context.Context, address string) (net.Conn, error) {
	for _, n := range p.world.allNodes() {
		if "passthrough:///"+address == n.link.name {
			return n.link.dial(ctx, p.slot)
		}
	}
	return nil, fmt.Errorf("sim: there is no %s", address)
}

// follow keeps the router's View up to date.
func (p *process) follow(ctx context.Context) {
	for {
		changed := p.watcher.Changes()
		p.router.Update(p.watcher.View())
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// end ends the process at once: what it holds in the store stays until its leases expire.
func (p *process) end() {
	p.world.say("coordinator %s ends", p.id)
	p.gate.kill()
	p.close()
}

// close ends what the process consists of and waits for it.
func (p *process) close() {
	p.cancel()
	p.engine.Close()
	p.planner.Close()
	p.accuser.Close()
	p.running.Wait()
	p.watcher.Close()
	p.router.Close()
	if p.reserve != nil {
		p.reserve.Close()
	}
	p.gate.kill()
}
