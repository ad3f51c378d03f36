package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"drover/router"
)

// maxLoadSeries bounds the series of a metric that is told by node and layer, or by layer and
// expert. Where there are more, it is not told at all: a part of them would mislead.
const maxLoadSeries = 4096

// Router tells of a coordinator's calls of expert nodes, for a model with these MoE layers.
// What it tells by node is as many series as there are nodes, 13 times, and by node and
// layer at most maxLoadSeries.
func Router(r *router.Router, layers []int) prometheus.Collector {
	onWire := histogram("drover_expert_wire_seconds",
		"Time of expert calls beside their node's, both ways.")
	queue := histogram("drover_expert_queue_seconds", "Time of expert calls in their node's queue.")
	compute := histogram("drover_expert_compute_seconds",
		"Time in which nodes computed expert calls.")
	lost := gauge("drover_experts_unreachable",
		"Experts, one for each layer, that no connected node has loaded.")
	experts := gauge("drover_experts", "Experts, one for each layer, that the placement has.")
	stats, nodes := routerStats(), routerNodes(layers)
	return collect(func(ch chan<- prometheus.Metric) {
		calls := r.CallMetrics()
		onWire.counts(ch, calls.Wire)
		queue.counts(ch, calls.Queue)
		compute.counts(ch, calls.Compute)
		missing, all := r.Unreachable()
		lost.put(ch, float64(missing))
		experts.put(ch, float64(all))
		s := r.Stats()
		stats(ch, &s)
		nodes(ch, r.NodeMetrics())
	})
}

func routerStats() func(chan<- prometheus.Metric, *router.Stats) {
	type stats = router.Stats
	var all []single[stats]
	count := func(name, help string, f func(*stats) uint64) {
		all = append(all, single[stats]{counter(name, help),
			func(s *stats) float64 { return float64(f(s)) }, nil})
	}
	count("drover_rows_total", "Rows sent to expert nodes, those sent twice once.",
		func(s *stats) uint64 { return s.Rows })
	count("drover_hedges_total", "Frames sent to another node as well since an answer was late.",
		func(s *stats) uint64 { return s.Hedges })
	count("drover_hedged_rows_total", "Rows of such frames.",
		func(s *stats) uint64 { return s.HedgedRows })
	count("drover_probed_rows_total", "Rows sent twice to learn how fast a node is.",
		func(s *stats) uint64 { return s.ProbedRows })
	count("drover_retries_total", "Frames of which something had to be sent again.",
		func(s *stats) uint64 { return s.Retries })
	count("drover_failovers_total", "Frames that were sent elsewhere since their link was lost.",
		func(s *stats) uint64 { return s.Failovers })
	count("drover_suspicions_total", "Times that a node let a frame wait and said nothing.",
		func(s *stats) uint64 { return s.Suspicions })
	count("drover_stuck_total",
		"Times that a node answered none of its frames for 2 s and said that it is alive.",
		func(s *stats) uint64 { return s.Stuck })
	count("drover_silent_links_total", "Links that were closed since nothing came over them.",
		func(s *stats) uint64 { return s.SilentLinks })
	count("drover_last_resort_experts_total",
		"Experts computed by the coordinator since no node did.",
		func(s *stats) uint64 { return s.LastResort })
	count("drover_checks_total", "Calls of experts that were computed twice and compared.",
		func(s *stats) uint64 { return s.Checked })
	count("drover_check_mismatches_total", "Such calls for which a node returned other bytes.",
		func(s *stats) uint64 { return s.Mismatches })
	count("drover_check_disputes_total", "Such calls of which nobody could tell what is right.",
		func(s *stats) uint64 { return s.Disputes })
	count("drover_quarantines_total", "Nodes that were found to compute wrongly.",
		func(s *stats) uint64 { return s.Quarantined })
	count("drover_corrupt_frames_total", "Frames whose checksum did not fit, both ways.",
		func(s *stats) uint64 { return s.CorruptFrames })
	count("drover_bad_answers_total", "Answers of nodes that were not used.",
		func(s *stats) uint64 { return s.BadAnswers })
	return func(ch chan<- prometheus.Metric, s *stats) {
		for i := range all {
			all[i].tell(ch, s)
		}
	}
}

func routerNodes(layers []int) func(chan<- prometheus.Metric, []router.NodeMetrics) {
	up := gauge("drover_node_links_up", "Connected links to a node.", "node")
	links := gauge("drover_node_links", "Links to a node, connected or not.", "node")
	quarantined := gauge("drover_node_quarantined",
		"1 if a node returned wrong numbers and is not used.", "node")
	calls := counter("drover_node_calls_total", "Calls that a node has answered.", "node")
	rows := counter("drover_node_rows_total", "Rows that a node has answered.", "node")
	load := counter("drover_node_work_total",
		"Work that a node has done: experts called, and an eighth of their rows.", "node")
	bytes := counter("drover_node_wire_bytes_total",
		"Rows' bytes to (sent) and from (received) a node.", "node", "direction")
	spent := counter("drover_node_call_seconds_total",
		"Time of a node's calls: on the wire, in its queue, computing.", "node", "where")
	failures := counter("drover_node_failures_total",
		"Frames to a node of which something had to be sent again.", "node")
	lost := counter("drover_node_links_lost_total",
		"Times that a link to a node was lost or could not be made.", "node")
	byLayer := counter("drover_node_layer_work_total",
		"Work that a node has done for a layer.", "node", "layer")
	return func(ch chan<- prometheus.Metric, all []router.NodeMetrics) {
		for _, n := range all {
			up.put(ch, float64(n.Links), n.ID)
			links.put(ch, float64(n.Lanes), n.ID)
			quarantined.put(ch, yes(n.Quarantined), n.ID)
			calls.put(ch, float64(n.Frames), n.ID)
			rows.put(ch, float64(n.Rows), n.ID)
			load.put(ch, float64(n.Work), n.ID)
			bytes.put(ch, float64(n.SentBytes), n.ID, "sent")
			bytes.put(ch, float64(n.ReceivedBytes), n.ID, "received")
			spent.put(ch, n.Wire.Seconds(), n.ID, "wire")
			spent.put(ch, n.Queue.Seconds(), n.ID, "queue")
			spent.put(ch, n.Compute.Seconds(), n.ID, "compute")
			failures.put(ch, float64(n.Failures), n.ID)
			lost.put(ch, float64(n.LinksLost), n.ID)
			if len(all)*len(layers) > maxLoadSeries {
				continue
			}
			for pos, work := range n.LayerWork {
				byLayer.put(ch, float64(work), n.ID, strconv.Itoa(layers[pos]))
			}
		}
	}
}

// Experts tells what batches asked of each expert: work by position of the layer, and expert.
func Experts(layers []int, read func() [][]float64) prometheus.Collector {
	work := counter("drover_expert_work_total",
		"Work that was asked of an expert: once for each batch, and an eighth of its rows.",
		"layer", "expert")
	return collect(func(ch chan<- prometheus.Metric) {
		all := read()
		if len(all) == 0 || len(all)*len(all[0]) > maxLoadSeries {
			return
		}
		for pos := range all {
			for expert, w := range all[pos] {
				work.put(ch, w, strconv.Itoa(layers[pos]), strconv.Itoa(expert))
			}
		}
	})
}
