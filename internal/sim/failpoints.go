package sim

import "sync"

// Failpoint names one way to fail, at the narrow interface where it is injected.
type Failpoint string

// The failpoints. The first part of a name is the interface: net is the connections between
// routers and nodes, node what a node's Server computes with, load its source of weights,
// store what a process sees of the authority, and so on.
const (
	Apart          Failpoint = "net.apart"
	ApartDelay     Failpoint = "net.apart.delay"
	DialRefused    Failpoint = "net.dial.refused"
	DialSilent     Failpoint = "net.dial.silent"
	HoleTo         Failpoint = "net.hole.to"
	HoleFrom       Failpoint = "net.hole.from"
	HoleBoth       Failpoint = "net.hole.both"
	Delay          Failpoint = "net.delay"
	SlowLink       Failpoint = "net.slow"
	Reset          Failpoint = "net.reset"
	CorruptTo      Failpoint = "net.corrupt.to"
	CorruptFrom    Failpoint = "net.corrupt.from"
	LoseTo         Failpoint = "net.lose.to"
	LoseFrom       Failpoint = "net.lose.from"
	NodeKill       Failpoint = "node.kill"
	NodePowerOff   Failpoint = "node.poweroff"
	NodeGone       Failpoint = "node.gone"
	NodeReturns    Failpoint = "node.returns"
	NodeHang       Failpoint = "node.hang"
	NodeSlow       Failpoint = "node.slow"
	NodeForgets    Failpoint = "node.nothosted"
	NodeOverloaded Failpoint = "node.overloaded"
	NodeDraining   Failpoint = "node.draining"
	NodePanic      Failpoint = "node.panic"
	NodeWrong      Failpoint = "node.wrong"
	NodeJoins      Failpoint = "node.joins"
	NodeLeaves     Failpoint = "node.leaves"
	NodeStranger   Failpoint = "node.stranger"
	LoadError      Failpoint = "load.error"
	LoadFull       Failpoint = "load.full"
	LoadSlow       Failpoint = "load.slow"
	StoreAway      Failpoint = "store.away"
	StoreSlow      Failpoint = "store.slow"
	StoreCut       Failpoint = "store.cut"
	StoreRefuses   Failpoint = "store.commit.refused"
	StoreLoses     Failpoint = "store.commit.lost"
	StoreBreaks    Failpoint = "store.watch.broken"
	StoreCompacted Failpoint = "store.compacted"
	StoreReplaced  Failpoint = "store.replaced"
	LeaseLost      Failpoint = "store.lease.lost"
	PlannerPaused  Failpoint = "planner.paused"
	PlannerKilled  Failpoint = "coordinator.kill"
	LoadShift      Failpoint = "load.shift"
	GossipLies     Failpoint = "gossip.lies"
	FalseWord      Failpoint = "coordinator.misjudges"
	LocalError     Failpoint = "local.error"
	ClientGone     Failpoint = "client.gone"
)

// Failpoints says of each failpoint what happens there. A fault that is drawn may find
// nothing to spoil; a failpoint has fired when it has.
var Failpoints = map[Failpoint]string{
	Apart:          "bytes between one coordinator and a node do not arrive until the fault ends",
	ApartDelay:     "bytes between one coordinator and a node take longer",
	DialRefused:    "a connection is refused, since no process listens",
	DialSilent:     "a connection is neither made nor refused",
	HoleTo:         "bytes to a node do not arrive until the fault ends",
	HoleFrom:       "bytes of a node do not arrive until the fault ends",
	HoleBoth:       "bytes in both directions do not arrive until the fault ends",
	Delay:          "bytes in both directions take longer",
	SlowLink:       "a link carries 1 Mbit/s",
	Reset:          "the connections to a node are reset",
	CorruptTo:      "one byte of what a router wrote is another one",
	CorruptFrom:    "one byte of what a node wrote is another one",
	LoseTo:         "some bytes that a router wrote are missing, the later ones arrive",
	LoseFrom:       "some bytes that a node wrote are missing, the later ones arrive",
	NodeKill:       "a node's process ends at once; its connections are reset",
	NodePowerOff:   "a node's machine ends at once; nobody hears of it",
	NodeGone:       "a node that ended does not come back",
	NodeReturns:    "a node that ended starts again, in a new epoch, with nothing loaded",
	NodeHang:       "a node's process stands still and goes on later",
	NodeSlow:       "a node computes many times slower",
	NodeForgets:    "a node answers NOT_HOSTED for experts that it is to hold",
	NodeOverloaded: "a node's queue is full, so it answers OVERLOADED",
	NodeDraining:   "a node answers DRAINING",
	NodePanic:      "the computation of a frame panics",
	NodeWrong:      "a node computes other numbers",
	NodeJoins:      "a node joins",
	NodeLeaves:     "a node leaves in good order",
	NodeStranger:   "a node with another checkpoint joins under the cluster's name",
	LoadError:      "an expert's weights cannot be read",
	LoadFull:       "a node can load nothing until the fault ends",
	LoadSlow:       "an expert's weights are read slowly",
	StoreAway:      "the store answers nobody",
	StoreSlow:      "the store takes long for each call",
	StoreCut:       "the store does not answer one process",
	StoreRefuses:   "a write is not done and returns an error",
	StoreLoses:     "a write is done and returns an error",
	StoreBreaks:    "a watch breaks",
	StoreCompacted: "the history is compacted and watches break",
	StoreReplaced:  "the store is another one, without any state",
	LeaseLost:      "a lease ends early",
	PlannerPaused:  "a planner stands still for longer than its lease and goes on with its write",
	PlannerKilled:  "a coordinator's process ends at once",
	LoadShift:      "other experts become hot",
	GossipLies:     "gossip takes a node that is well for dead",
	FalseWord:      "a coordinator takes a node that is well for one that computes wrongly",
	LocalError:     "the coordinator's own host fails to load an expert",
	ClientGone:     "a client goes away in the middle of its answer",
}

// firings counts how often failpoints fired.
type firings struct {
	mu    sync.Mutex // guards the field below
	count map[Failpoint]int
}

func (f *firings) fire(p Failpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count = map[Failpoint]int{}
	}
	f.count[p]++
}
