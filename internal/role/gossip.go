package role

import (
	"context"
	"log/slog"
	"sync/atomic"

	"drover/cluster"
)

// Gossip is a process's part in memberlist. The zero value is none.
type Gossip struct {
	// Address is where others join.
	Address string

	running *cluster.Gossip
	hint    *atomic.Pointer[func(name string, suspect bool)]
}

// ListenGossip takes part in gossip at once, under a name that is unique in the
// cluster and with a secret that all its processes share; others are addresses to join.
func ListenGossip(name, address, secret string, log *slog.Logger, others ...string) (
	Gossip, error) {
	g := Gossip{hint: &atomic.Pointer[func(string, bool)]{}}
	opts := cluster.GossipOptions{Name: name, Address: address, Secret: []byte(secret),
		Events: cluster.GossipEvents{
			Hint: func(name string, alive bool, _ []byte) {
				if hint := g.hint.Load(); hint != nil {
					(*hint)(name, !alive)
				}
			},
			Log: func(line string) { log.Debug("gossip", "line", line) },
		}}
	if len(others) > 0 {
		opts.Seeds = func() []string { return others }
	}
	var err error
	if g.running, err = cluster.StartGossip(context.Background(), opts); err != nil {
		return Gossip{}, err
	}
	g.Address = g.running.Address()
	return g, nil
}

// report has hints about nodes passed on: a node that seems dead is suspect.
func (g Gossip) report(hint func(nodeID string, suspect bool)) {
	if g.running != nil {
		g.hint.Store(&hint)
	}
}

// Close leaves.
func (g Gossip) Close() {
	if g.running != nil {
		_ = g.running.Close() // the others notice its end anyway
	}
}
