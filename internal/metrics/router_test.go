package metrics

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"drover/router"
)

// count gathers the series of a metric.
func count(t *testing.T, c prometheus.Collector, name string) (series int) {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			series += len(f.Metric)
		}
	}
	return series
}

// TestLoadIsBounded tells of as many nodes, layers and experts as the bound allows, and of more.
func TestLoadIsBounded(t *testing.T) {
	layers := make([]int, 64)
	for i := range layers {
		layers[i] = 2 * i
	}
	for nodes, want := range map[int]int{1: 64, 64: 4096, 65: 0} {
		all := make([]router.NodeMetrics, nodes)
		for i := range all {
			all[i] = router.NodeMetrics{ID: fmt.Sprint(i), LayerWork: make([]uint64, len(layers))}
		}
		tell := routerNodes(layers)
		c := collect(func(ch chan<- prometheus.Metric) { tell(ch, all) })
		if got := count(t, c, "drover_node_layer_work_total"); got != want {
			t.Errorf("%d nodes: %d series by node and layer, want %d", nodes, got, want)
		}
		if got := count(t, c, "drover_node_work_total"); got != nodes {
			t.Errorf("%d nodes: %d series by node", nodes, got)
		}
	}
	for experts, want := range map[int]int{0: 0, 1: 64, 64: 4096, 65: 0} {
		work := make([][]float64, len(layers))
		for l := range work {
			work[l] = make([]float64, experts)
		}
		c := Experts(layers, func() [][]float64 { return work })
		if got := count(t, c, "drover_expert_work_total"); got != want {
			t.Errorf("%d experts: %d series, want %d", experts, got, want)
		}
	}
}
