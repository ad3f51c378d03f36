package role

import (
	"sync/atomic"

	"drover/cluster"
	"drover/internal/metrics"
)

// coordinatorNotes is what a coordinator's role notes of what happens, for its metrics.
type coordinatorNotes struct {
	storeAway, planner atomic.Bool
	weightBytes        atomic.Int64
	badRecords         atomic.Uint64
}

// watch adds what is noted to what is logged.
func (n *coordinatorNotes) watch(e cluster.WatcherEvents) cluster.WatcherEvents {
	log := e.StoreAway
	e.StoreAway = func(err error) {
		n.storeAway.Store(err != nil)
		log(err)
	}
	logBad := e.BadRecord
	e.BadRecord = func(key string, err error) {
		n.badRecords.Add(1)
		logBad(key, err)
	}
	return e
}

// plan is watch for the planner.
func (n *coordinatorNotes) plan(e cluster.PlannerEvents) cluster.PlannerEvents {
	log := e.Elected
	e.Elected = func(elected bool) {
		n.planner.Store(elected)
		log(elected)
	}
	return e
}

// measure adds what the coordinator's parts count to its metrics.
func (c *Coordinator) measure(model string, nodes *cluster.Server) {
	c.registry.MustRegister(metrics.Engine(model, c.engine.Metrics),
		metrics.OfCoordinator(func() metrics.Coordinator {
			now := metrics.Coordinator{Ready: c.prover.reason() == nil, Proof: c.prover.proven(),
				StoreUp: !c.notes.storeAway.Load(), Planner: c.notes.planner.Load(),
				Revision: c.watcher.View().Revision(), States: nodes.States(),
				WeightBytes: c.notes.weightBytes.Load(), BadRecords: c.notes.badRecords.Load()}
			if c.reserve != nil {
				now.ReserveBytes = c.reserve.Stats().HeldBytes
			}
			return now
		}))
	if c.router != nil {
		layers := c.load.layers
		c.registry.MustRegister(metrics.Router(c.router, layers),
			metrics.Experts(layers, c.load.sums))
	}
}

// measure adds what the node's parts count to its metrics.
func (n *ExpertNode) measure(p parts) {
	n.registry.MustRegister(metrics.OfExpertNode(func() metrics.ExpertNode {
		_, received := p.source.Fetched()
		return metrics.ExpertNode{Metrics: p.server.Metrics(), Ready: n.unready() == nil,
			StoreUp: !n.storeAway.Load(), Draining: n.draining.Load(),
			Revision: n.holds.committed.Load(), LoadedRevision: n.holds.loaded.Load(),
			Received: received, Pulled: p.rest.bytes()}
	}))
}
