package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"drover/placement"
)

// What coordinators measure lies under a prefix of its own, so that a new measurement
// wakes nobody who watches the cluster: the elected planner reads it when it is to look
// at the load, and a Server when it is asked.
//
//	/drover-load/<cluster>/<model>/experts/<coordinator>  under its lease: a load record
//	/drover-load/<cluster>/<model>/nodes/<coordinator>    under its lease: speeds of nodes
const loadRoot = "/drover-load/"

func (s Scope) load() string        { return loadRoot + s.Cluster + "/" + s.Model + "/" }
func (s Scope) loadExperts() string { return s.load() + "experts/" }
func (s Scope) loadNodes() string   { return s.load() + "nodes/" }

// rebalance is written by who wants the elected planner to look at the load at once.
func (s Scope) rebalance() string { return s.placement() + "rebalance" }

const (
	// reportEvery is how often a coordinator looks whether what it measured is worth a
	// record, and refreshEvery how often it writes one in any case.
	reportEvery  = 10 * time.Second
	refreshEvery = 10 * time.Minute
	// newsworthy is the part of a layer's load that must have shifted for a new record, and
	// the part by which a node's speed must have.
	newsworthy = 0.03
	// maxSpeedBytes bounds the record of nodes' speeds.
	maxSpeedBytes = 256 << 10
	// maxReports bounds the records that are added up.
	maxReports = 256
)

// Measured is what a coordinator, or all of them, measured of late.
type Measured struct {
	// Load is the work of each expert in a second, as in placement.Input.
	Load [][]float64
	// Nodes is what each node did, by ID.
	Nodes map[string]NodeWork
}

// NodeWork is the work that a node did and the seconds that it computed for it.
type NodeWork struct {
	Work    float64 `json:"work"`
	Seconds float64 `json:"seconds"`
}

// leastSeconds is how long a node must have computed before its speed is told: a few
// frames prove nothing.
const leastSeconds = 1

// speeds are the nodes' relative speeds.
func (m Measured) speeds() map[string]float64 {
	perSecond := map[string]float64{}
	for id, n := range m.Nodes {
		if n.Seconds >= leastSeconds {
			perSecond[id] = n.Work / n.Seconds
		}
	}
	return placement.Speeds(perSecond)
}

// readMeasured adds up what the coordinators measured. Records that cannot be read, or of
// another shape, do not count.
func readMeasured(ctx context.Context, store Store, scope Scope, layers, experts int) (
	Measured, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sum := Measured{Nodes: map[string]NodeWork{}}
	entries, _, err := store.List(ctx, scope.load())
	if err != nil {
		return sum, fmt.Errorf("read the load: %w", err)
	}
	for _, e := range entries[:min(len(entries), maxReports)] {
		if strings.HasPrefix(e.Key, scope.loadExperts()) {
			if load, err := placement.DecodeLoad(e.Value, layers, experts); err == nil {
				sum.Load = placement.AddLoad(sum.Load, load)
			}
		} else if strings.HasPrefix(e.Key, scope.loadNodes()) {
			sum.addNodes(e.Value)
		}
	}
	return sum, nil
}

func (m Measured) addNodes(record []byte) {
	nodes := map[string]NodeWork{}
	if len(record) > maxSpeedBytes || json.Unmarshal(record, &nodes) != nil {
		return
	}
	for id, n := range nodes {
		if !(n.Work > 0 && n.Work < math.MaxFloat32 && n.Seconds > 0 && n.Seconds < math.MaxFloat32) {
			continue
		}
		had := m.Nodes[id]
		m.Nodes[id] = NodeWork{had.Work + n.Work, had.Seconds + n.Seconds}
	}
}

// reporter writes what one coordinator measures. One goroutine runs it.
type reporter struct {
	p     *Planner
	wrote Measured
	at    time.Time
	lease Lease
}

func (r *reporter) run(ctx context.Context) {
	for pause(ctx, reportEvery) {
		tenure := r.p.session.current()
		now := r.p.opts.Measure()
		if tenure.lease == 0 || now.Load == nil {
			continue
		}
		if tenure.lease == r.lease && time.Since(r.at) < refreshEvery && !now.differs(r.wrote) {
			continue
		}
		if err := r.write(ctx, tenure.lease, now); err == nil {
			r.wrote, r.at, r.lease = now, time.Now(), tenure.lease
		}
	}
}

// write writes a coordinator's records. What it cannot write it writes again later.
func (r *reporter) write(ctx context.Context, lease Lease, now Measured) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	scope, id := r.p.watcher.opts.Scope, r.p.opts.ID
	record, err := placement.EncodeLoad(now.Load)
	if err != nil {
		return err
	}
	w := Write{Put: []Put{{scope.loadExperts() + id, record, lease}}}
	if nodes := encodeJSON(now.Nodes); len(nodes) <= maxSpeedBytes {
		w.Put = append(w.Put, Put{scope.loadNodes() + id, nodes, lease})
	}
	_, err = r.p.store.Commit(ctx, w)
	return err
}

// differs tells whether a measurement is worth a record after another.
func (m Measured) differs(o Measured) bool {
	if len(m.Load) != len(o.Load) || len(m.Nodes) != len(o.Nodes) {
		return true
	}
	for l := range m.Load {
		if shifted(m.Load[l], o.Load[l]) > newsworthy {
			return true
		}
	}
	for id, n := range m.Nodes {
		was := o.Nodes[id]
		if math.Abs(n.Work*was.Seconds-was.Work*n.Seconds) > newsworthy*was.Work*n.Seconds {
			return true
		}
	}
	return false
}

// shifted is the part of a layer's load that lies elsewhere, or has come or gone.
func shifted(a, b []float64) float64 {
	sum, moved := 0.0, 0.0
	for e := range a {
		sum += a[e]
		moved += math.Abs(a[e] - b[e])
	}
	if sum == 0 {
		return moved
	}
	return moved / 2 / sum
}

// entry returns a watched entry as it is now.
func (w *Watcher) entry(key string) Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.entries[key]
}

// plannerID names the coordinator that plans; empty if none does.
func (s *state) plannerID() string {
	if s.planner.Key == "" {
		return ""
	}
	return path.Dir(string(s.planner.Value)) // the rest is its lease
}
