package router_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drover/internal/faultproxy"
	"drover/kernel"
	"drover/moe"
	"drover/router"
)

// faultBench is three nodes behind proxies that compute a millisecond for each expert, and a
// last resort that does, too.
type faultBench struct {
	b       *testing.B
	router  *router.Router
	proxies []*faultproxy.Proxy
	slow    atomic.Int64 // times as long, for the first node
	rng     *rand.Rand
}

func newFaultBench(b *testing.B, copies int) *faultBench {
	f := &faultBench{b: b, rng: rand.New(rand.NewPCG(1, 1))}
	f.slow.Store(1)
	nodes := startNodes(b, 3, kernel.BF16, nil)
	for i, n := range nodes {
		n.fake.setBefore(func(int, int) error {
			each := time.Millisecond
			if i == 0 {
				each *= time.Duration(f.slow.Load())
			}
			time.Sleep(each)
			return nil
		})
		p, err := faultproxy.Start(n.node.Address)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(p.Close)
		n.node.Address = p.Address()
		f.proxies = append(f.proxies, p)
	}
	f.router = startRouter(b, kernel.BF16, func(o *router.Options) {
		local := &localFake{fake: fake{spec: testSpec, mode: kernel.BF16}}
		local.setBefore(func(int, int) error { time.Sleep(time.Millisecond); return nil })
		o.Local = local
	})
	f.router.Update(viewOf(testSpec, 1, copies, nodes...))
	waitReady(b, f.router)
	return f
}

// steps runs steps of one layer, a row for each of about eight experts, and returns their
// times.
func (f *faultBench) steps(n int) []time.Duration {
	var out []time.Duration
	for range n {
		batch := randomBatch(f.rng, benchFaultSpec, kernel.BF16, 1)
		began := time.Now()
		if err := f.router.Forward(context.Background(), batch, nil); err != nil {
			f.b.Fatal(err)
		}
		out = append(out, time.Since(began))
	}
	return out
}

// benchFaultSpec has as many experts as a small step visits.
var benchFaultSpec = moe.Spec{Layers: testSpec.Layers, Experts: 12, TopK: 1, Hidden: testSpec.Hidden}

func kill(f *faultBench, on bool) {
	f.proxies[0].Set(faultproxy.Conditions{Refuse: on})
	if on {
		f.proxies[0].Reset()
	}
}

func fallSilent(f *faultBench, on bool) {
	f.proxies[0].Set(faultproxy.Conditions{StallOut: on, StallBack: on})
}

func quantile(d []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(d))
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / float64(time.Millisecond)
}

// BenchmarkFaults reports how long a step takes that is under way when a fault comes, beyond
// the median of a quiet one, over b.N faults: -benchtime=20x or more. The quiet steps and
// those of a lasting fault are reported as quantiles.
func BenchmarkFaults(b *testing.B) {
	for name, set := range map[string]func(f *faultBench, on bool){
		"kill":      kill,
		"blackhole": fallSilent,
		"halfopen": func(f *faultBench, on bool) {
			f.proxies[0].Set(faultproxy.Conditions{StallBack: on})
		},
		"delay50ms": func(f *faultBench, on bool) {
			c := faultproxy.Conditions{}
			if on {
				c.Delay = 50 * time.Millisecond
			}
			f.proxies[0].Set(c)
		},
		"1mbit": func(f *faultBench, on bool) {
			c := faultproxy.Conditions{}
			if on {
				c.BytesPerSecond = 125_000
			}
			f.proxies[0].Set(c)
		},
		"slow10": func(f *faultBench, on bool) {
			f.slow.Store(1)
			if on {
				f.slow.Store(10)
			}
		},
		"kill/one replica":      kill,
		"blackhole/one replica": fallSilent,
	} {
		b.Run(name, func(b *testing.B) {
			copies := 2
			if strings.HasSuffix(name, "one replica") {
				copies = 1
			}
			f := newFaultBench(b, copies)
			f.steps(100) // to know the links
			quiet := f.steps(300)
			usual := quantile(quiet, 0.5)
			before := f.router.Stats()
			var first, lasting []time.Duration
			for b.Loop() {
				strike := time.AfterFunc(time.Duration(f.rng.IntN(3000))*time.Microsecond,
					func() { set(f, true) })
				first = append(first, slices.Max(f.steps(3)))
				_ = strike.Stop()
				set(f, true) // if the steps were quicker
				lasting = append(lasting, f.steps(50)...)
				set(f, false)
				waitReady(b, f.router)
				f.steps(30)
			}
			after := f.router.Stats()
			twice := after.HedgedRows + after.ProbedRows - before.HedgedRows - before.ProbedRows
			b.ReportMetric(usual, "ms-quiet-p50")
			b.ReportMetric(quantile(quiet, 0.99), "ms-quiet-p99")
			b.ReportMetric(quantile(first, 0.5)-usual, "ms-added-p50")
			b.ReportMetric(quantile(first, 0.99)-usual, "ms-added-p99")
			b.ReportMetric(quantile(lasting, 0.5), "ms-lasting-p50")
			b.ReportMetric(quantile(lasting, 0.99), "ms-lasting-p99")
			b.ReportMetric(100*float64(twice)/float64(after.Rows-before.Rows), "%-twice")
		})
	}
}
