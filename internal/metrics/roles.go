package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"drover/expertnode"
)

// Coordinator is what a coordinator's role knows beside its engine and its router.
type Coordinator struct {
	Ready bool
	// Proof is when a token had passed through every layer last; zero: never.
	Proof time.Time
	// StoreUp tells whether etcd answers, Planner whether this coordinator plans.
	StoreUp, Planner bool
	Revision         uint64 // of the committed placement
	// BadRecords counts records in etcd that were ignored.
	BadRecords uint64
	// States counts the cluster's nodes by what they are.
	States map[string]int
	// WeightBytes is the size of the coordinator's own packed weights, ReserveBytes that of
	// the experts that it holds as the last resort.
	WeightBytes, ReserveBytes int64
}

// OfCoordinator tells of a coordinator's role.
func OfCoordinator(read func() Coordinator) prometheus.Collector {
	ready := gauge("drover_ready", "1 if the process says that it is ready.")
	age := gauge("drover_ready_age_seconds",
		"Time since a token passed through every layer; -1 if none has.")
	store := gauge("drover_store_up", "1 if etcd answers.")
	planner := gauge("drover_planner", "1 if this coordinator plans placements.")
	revision := gauge("drover_placement_revision", "Revision of the placement in force.")
	bad := counter("drover_bad_records_total",
		"Records in etcd that cannot be and were ignored.")
	nodes := gauge("drover_nodes", "Expert nodes by state.", "state")
	weights := gauge("drover_weight_bytes", "Packed weights in use.")
	reserve := gauge("drover_last_resort_bytes",
		"Packed weights of experts that the coordinator computes itself.")
	return collect(func(ch chan<- prometheus.Metric) {
		c := read()
		ready.put(ch, yes(c.Ready))
		if c.Proof.IsZero() {
			age.put(ch, -1)
		} else {
			age.put(ch, time.Since(c.Proof).Seconds())
		}
		store.put(ch, yes(c.StoreUp))
		planner.put(ch, yes(c.Planner))
		revision.put(ch, float64(c.Revision))
		bad.put(ch, float64(c.BadRecords))
		for state, n := range c.States {
			nodes.put(ch, float64(n), state)
		}
		weights.put(ch, float64(c.WeightBytes))
		reserve.put(ch, float64(c.ReserveBytes))
	})
}

// ExpertNode is what an expert node's role knows.
type ExpertNode struct {
	expertnode.Metrics
	Ready, StoreUp, Draining bool
	Revision                 uint64 // of the committed placement
	LoadedRevision           uint64 // of the last one that is loaded
	// Received counts bytes of weights that came from other nodes, Pulled those that came from
	// the model's source.
	Received, Pulled int64
}

// OfExpertNode tells of an expert node.
func OfExpertNode(read func() ExpertNode) prometheus.Collector {
	ready := gauge("drover_ready", "1 if the process says that it is ready.")
	store := gauge("drover_store_up", "1 if etcd answers.")
	revision := gauge("drover_placement_revision", "Revision of the placement in force.")
	loaded := gauge("drover_expertnode_loaded_revision",
		"Revision of the last placement of which the node has loaded its part.")
	draining := gauge("drover_expertnode_draining", "1 while the node drains.")
	streams := gauge("drover_expertnode_streams", "Open streams of coordinators.")
	waiting := gauge("drover_expertnode_queue_frames", "Frames that wait for computation.")
	replicas := gauge("drover_expertnode_replicas", "Experts held, one for each layer.")
	weights := gauge("drover_weight_bytes", "Packed weights in use.")
	frames := counter("drover_expertnode_frames_total", "Frames computed.")
	rows := counter("drover_expertnode_rows_total", "Rows computed.")
	queue := histogram("drover_expertnode_queue_seconds", "Time that frames waited.")
	compute := histogram("drover_expertnode_compute_seconds",
		"Time of computations, each of one or more frames.")
	sizes := histogram("drover_expertnode_batch_rows", "Rows of a computation.")
	refused := counter("drover_expertnode_frames_refused_total",
		"Frames answered without rows, by why.", "reason")
	corrupt := counter("drover_expertnode_corrupt_messages_total",
		"Messages so corrupt that they ended their stream.")
	floods := counter("drover_expertnode_ping_floods_total",
		"Streams that were ended since more pings came than a coordinator sends.")
	panics := counter("drover_expertnode_panics_total", "Computations that panicked.")
	fetched := counter("drover_expertnode_fetch_bytes_total",
		"Packed weights sent to and received from other nodes.", "direction")
	pulled := counter("drover_expertnode_pull_bytes_total",
		"Weights that came from the model's source since the node started.")
	return collect(func(ch chan<- prometheus.Metric) {
		n := read()
		ready.put(ch, yes(n.Ready))
		store.put(ch, yes(n.StoreUp))
		revision.put(ch, float64(n.Revision))
		loaded.put(ch, float64(n.LoadedRevision))
		draining.put(ch, yes(n.Draining || n.Metrics.Draining))
		streams.put(ch, float64(n.Streams))
		waiting.put(ch, float64(n.Waiting))
		replicas.put(ch, float64(n.Replicas))
		weights.put(ch, float64(n.WeightBytes))
		frames.put(ch, float64(n.Frames))
		rows.put(ch, float64(n.Rows))
		queue.counts(ch, n.Queue)
		compute.counts(ch, n.Compute)
		sizes.counts(ch, n.BatchRows)
		for status, count := range n.Refused {
			refused.put(ch, float64(count), strings.ReplaceAll(strings.ToLower(status.String()), " ", "_"))
		}
		corrupt.put(ch, float64(n.CorruptMessages))
		floods.put(ch, float64(n.PingFloods))
		panics.put(ch, float64(n.Panics))
		fetched.put(ch, float64(n.FetchedBytes), "sent")
		fetched.put(ch, float64(n.Received), "received")
		pulled.put(ch, float64(n.Pulled))
	})
}
