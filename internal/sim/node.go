package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"drover/cluster"
	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// node is an expert node over all of its lives. The Host, the Server and the Member are
// those of a real one.
type node struct {
	world    *world
	id       string
	domain   string
	capacity int64
	link     *link
	stranger bool // has another checkpoint and says otherwise

	mu    sync.Mutex // guards the fields below
	epoch uint64
	life  *life   // nil while it has none
	hung  []*life // those that stand still, in the order of the faults
	// Faults of the machine, which outlive a process.
	slow       float64 // times the usual time that a computation takes
	forgets    int
	wrong      int
	overloaded int
	gone       bool   // it does not come back
	spoilt     bool   // its server will not do any more: it drains or is quarantined
	panics     int    // computations that are to panic
	loadFails  int    // loads that are to fail
	full       int    // faults that keep it from loading anything
	misjudged  uint64 // epoch of the life that a coordinator accused last
	loadTime   time.Duration
}

// life is one process of a node.
type life struct {
	node   *node
	epoch  uint64
	gate   *gate
	ctx    context.Context
	cancel context.CancelFunc
	host   *expertnode.Host
	server *expertnode.Server
	grpc   *grpc.Server
	member *cluster.Member
	store  *storeClient
	served sync.WaitGroup
}

// computeTime is how long a healthy node computes one expert.
const computeTime = 150 * time.Microsecond

var (
	errUnreadable = errors.New("sim: the weights cannot be read")
	errFull       = errors.New("sim: there is no space left")
)

// start begins a life of the node.
func (n *node) start() {
	n.mu.Lock()
	if n.life != nil {
		n.mu.Unlock()
		return
	}
	n.epoch++
	n.spoilt = false
	l := &life{node: n, epoch: n.epoch, gate: newGate()}
	n.mu.Unlock()
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.host = expertnode.NewHost(source{l.beforeLoad}, mode,
		expertnode.HostOptions{CapacityBytes: n.capacity})
	told := digest
	if n.stranger {
		told = []byte("another checkpoint")
	}
	var err error
	l.server, err = expertnode.NewServer(expertnode.Options{Replicas: served{l.host, l},
		NodeID: n.id, Epoch: l.epoch, ModelDigest: told, Mode: mode,
		QueueFrames: n.world.scenario.QueueFrames,
		Events:      expertnode.Events{ComputePanicked: func(int, []int32, any, []byte) {}}})
	n.world.must(err)
	l.grpc = grpc.NewServer(append(expertnode.ServerOptions(),
		grpc.ReadBufferSize(bufferBytes), grpc.WriteBufferSize(bufferBytes))...)
	droverv1.RegisterExpertServiceServer(l.grpc, l.server)
	listener := n.link.listen()
	l.served.Go(func() { _ = l.grpc.Serve(listener) })
	l.store = n.world.store.client(n.id, l.gate)
	l.member, err = cluster.Join(l.ctx, l.store, l.config(), l.hooks())
	n.world.must(err)
	n.mu.Lock()
	n.life = l // only now that it is whole
	n.mu.Unlock()
	n.world.say("%s starts life %d", n.id, l.epoch)
}

// bufferBytes is enough for the frames of simulations; the usual sizes would cost most of
// a scenario's time.
const bufferBytes = 4 << 10

func (l *life) config() cluster.NodeConfig {
	n := l.node
	return cluster.NodeConfig{Cluster: clusterName, NumericMode: mode.String(),
		TTL: cluster.LocalTTL, Grace: 500 * time.Millisecond,
		Node: placement.Node{ID: n.id, Address: n.link.name, Epoch: l.epoch,
			CapacityBytes: n.capacity, Domain: n.domain, KernelClass: kernel.Class(mode),
			ModelDigest: n.model()},
		Events: cluster.MemberEvents{AssignFailed: func(revision uint64, err error) {
			n.world.say("%s cannot load revision %d: %v", n.id, revision, err)
		}}}
}

// model is the digest that the node registers with.
func (n *node) model() string {
	if n.stranger {
		return "another"
	}
	return modelName
}

func (l *life) hooks() cluster.Hooks {
	turn := func(from []placement.Replica) []expertnode.Replica {
		to := make([]expertnode.Replica, len(from))
		for i, r := range from {
			to[i] = expertnode.Replica{Layer: r.Layer, Expert: r.Expert}
		}
		return to
	}
	return cluster.Hooks{
		Assign: func(ctx context.Context, r []placement.Replica) error {
			if !l.gate.pass() {
				return errKilled
			}
			if l.node.world.lazy {
				return nil
			}
			return l.host.Assign(ctx, turn(r))
		},
		Commit: func(revision uint64, _ []placement.Replica) { l.server.SetRevision(revision) },
		Drop:   func(r []placement.Replica) { l.host.Drop(turn(r)) },
	}
}

// beforeLoad is what reading an expert's weights meets.
func (l *life) beforeLoad() error {
	n := l.node
	n.mu.Lock()
	fails, full, d := n.loadFails > 0, n.full > 0, n.loadTime
	if fails {
		n.loadFails--
	}
	n.mu.Unlock()
	if d > 0 {
		n.world.fired.fire(LoadSlow)
	}
	if !l.gate.sleep(context.Background(), max(d, 200*time.Microsecond)) || !l.gate.pass() {
		return errKilled
	}
	if fails {
		n.world.fired.fire(LoadError)
		return errUnreadable
	}
	if full {
		n.world.fired.fire(LoadFull)
		return errFull
	}
	return nil
}

// end ends the life at once. A silent end is one that nobody hears of.
func (n *node) end(silent bool) {
	n.mu.Lock()
	l := n.life
	n.life = nil
	n.mu.Unlock()
	if l == nil {
		return
	}
	n.world.say("%s ends life %d", n.id, l.epoch)
	l.gate.kill()
	n.link.change(func() { n.link.listener, n.link.off = nil, silent })
	n.link.reset(silent)
	l.close()
}

// leave empties and ends the life as a node does that is told to stop, unless something
// ends it before.
func (n *node) leave() {
	l := n.current()
	n.world.running.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, leaveWithin)
		defer cancel()
		err := l.member.Drain(ctx)
		n.world.say("%s leaves: %v", n.id, err)
		l.server.Drain()
		l.server.Idle(ctx)
		n.mu.Lock()
		if n.life == l {
			n.life = nil
		}
		n.mu.Unlock()
		l.close()
	})
}

// leaveWithin bounds how long a node waits for others to take over.
const leaveWithin = 10 * time.Second

// close ends what a life consists of and waits for it.
func (l *life) close() {
	l.cancel()
	l.server.Close()
	l.grpc.Stop()
	l.member.Close()
	l.served.Wait()
	l.gate.kill()
}

// current is the present life, nil if there is none.
func (n *node) current() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

// isGone tells whether the node is not to be counted on any more.
func (n *node) isGone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// served is a Host with the faults of its node.
type served struct {
	*expertnode.Host
	life *life
}

// ComputeBatch implements expertnode.Replicas.
func (s served) ComputeBatch(b *moe.Batch, errs []error) {
	n, w := s.life.node, s.life.node.world
	n.mu.Lock()
	slow, forgets, wrong := n.slow, n.forgets > 0, n.wrong > 0
	if n.overloaded > 0 {
		slow = 200 // so that the queue fills
	}
	panics := n.panics > 0
	if panics {
		n.panics--
	}
	n.mu.Unlock()
	took := computeTime * time.Duration(len(b.Experts))
	if slow > 1 {
		w.fired.fire(NodeSlow)
		took = time.Duration(float64(took) * slow)
	}
	if !s.life.gate.sleep(context.Background(), took) || !s.life.gate.pass() {
		for i := range errs {
			errs[i] = errKilled
		}
		return
	}
	if panics {
		w.fired.fire(NodePanic)
		panic("sim: a bug")
	}
	s.Host.ComputeBatch(b, errs)
	row := 0
	for i, count := range b.Counts {
		if forgets && errs[i] == nil && i%2 == 0 {
			w.fired.fire(NodeForgets)
			errs[i] = fmt.Errorf("sim: %w", expertnode.ErrNotHeld)
		}
		if wrong && errs[i] == nil {
			w.fired.fire(NodeWrong)
			b.Y.Row(row)[0]++
		}
		row += int(count)
	}
}
