package role

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"drover/cluster"
)

// Gossip is a process's part in memberlist. The zero value is none.
type Gossip struct {
	// Address is where others join.
	Address string

	running *cluster.Gossip
	hint    *atomic.Pointer[suspicion]
}

// suspicion is called when one life of a node seems dead, or alive.
type suspicion func(nodeID string, epoch uint64, suspect bool)

// gossipName names one life of a node: a node that starts again is a new member, and
// what is said of its earlier life does not stick to it.
func gossipName(nodeID string, epoch uint64) string { return fmt.Sprintf("%s@%d", nodeID, epoch) }

// parseGossipName undoes gossipName; coordinators have other names.
func parseGossipName(name string) (nodeID string, epoch uint64, ok bool) {
	at := strings.LastIndexByte(name, '@')
	if at < 0 {
		return "", 0, false
	}
	epoch, err := strconv.ParseUint(name[at+1:], 10, 64)
	return name[:at], epoch, err == nil
}

// NewEpoch numbers a life of a node, above those before it.
func NewEpoch() uint64 { return uint64(time.Now().UnixNano()) }

// NodeGossip is ListenGossip for one life of an expert node.
func NodeGossip(nodeID string, epoch uint64, address, secret string, log *slog.Logger,
	others ...string) (Gossip, error) {
	return ListenGossip(gossipName(nodeID, epoch), address, secret, log, others...)
}

// ListenGossip takes part in gossip at once, under a name that is unique in the
// cluster and with a secret that all its processes share; others are addresses to join.
func ListenGossip(name, address, secret string, log *slog.Logger, others ...string) (
	Gossip, error) {
	g := Gossip{hint: &atomic.Pointer[suspicion]{}}
	opts := cluster.GossipOptions{Name: name, Address: address, Secret: []byte(secret),
		Events: cluster.GossipEvents{
			Hint: func(name string, alive bool, _ []byte) {
				hint := g.hint.Load()
				if id, epoch, ok := parseGossipName(name); ok && hint != nil {
					(*hint)(id, epoch, !alive)
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
func (g Gossip) report(hint suspicion) {
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
