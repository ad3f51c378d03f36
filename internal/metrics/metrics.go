// Package metrics shows what the parts of the product have counted as Prometheus metrics.
// The parts count by themselves; this package reads them when somebody asks.
package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"drover/internal/measure"
)

// NewRegistry returns a registry with what every process has: itself, Go's runtime, the build.
func NewRegistry(role, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "drover_build_info",
		Help: "1, with the role, Drover's version and Go's.",
		ConstLabels: prometheus.Labels{"role": role, "version": version,
			"go_version": runtime.Version()}})
	build.Set(1)
	r.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return r
}

// family is one metric; what it tells is read when somebody asks.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// histogram is a family whose values are put with counts.
func histogram(name, help string, labels ...string) family { return counter(name, help, labels...) }

// put tells one value.
func (f family) put(ch chan<- prometheus.Metric, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

// counts tells a histogram.
func (f family) counts(ch chan<- prometheus.Metric, c measure.Counts, labels ...string) {
	buckets := make(map[float64]uint64, len(c.Bounds))
	for i, b := range c.Bounds {
		buckets[b] = c.UpTo[i]
	}
	ch <- prometheus.MustNewConstHistogram(f.desc, c.Count, c.Sum, buckets, labels...)
}

// yes is 1 for true.
func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collect is a prometheus.Collector that is only read: the registry learns from a first
// reading what it tells.
type collect func(chan<- prometheus.Metric)

// Describe implements prometheus.Collector.
func (c collect) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collect) Collect(ch chan<- prometheus.Metric) { c(ch) }
