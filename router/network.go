package router

import (
	"sync"
	"time"
)

// Network says what a frame's round trips were made of lately: moving averages over all
// nodes.
type Network struct {
	// OneWay is half of a round trip beyond the node's own time, with encoding and
	// decoding of the rows.
	OneWay time.Duration
	// Node is the time from a frame's arrival at its node to its answer: waiting there and
	// computing.
	Node time.Duration
	// Frames counts the round trips that were measured.
	Frames uint64
}

// networkWindow is over how many frames the averages forget.
const networkWindow = 64

type network struct {
	mu      sync.Mutex // guards what follows
	average Network
}

// add takes in one round trip.
func (n *network) add(roundTrip, node time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := &n.average
	a.Frames++
	window := time.Duration(min(a.Frames, networkWindow))
	a.OneWay += (max(roundTrip-node, 0)/2 - a.OneWay) / window
	a.Node += (node - a.Node) / window
}

// Network returns what was measured; no frames before the first answer.
func (r *Router) Network() Network {
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	return r.network.average
}
