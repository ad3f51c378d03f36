package limits

import (
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMeasure(t *testing.T) {
	m, err := New(2, 64<<20, "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.Measure()
	if err != nil {
		t.Fatal(err)
	}
	for name, limits := range map[string][]Limit{"read": l.Read, "fma": l.FMA,
		"int8": l.Int8, "int4": l.Int4} {
		if len(limits) != 2 || limits[0].Threads != 1 || limits[1].Threads != 2 {
			t.Fatalf("%s: %+v, want 1 and 2 threads", name, limits)
		}
		for _, x := range limits {
			if !(0 < x.Min && x.Min <= x.Median && x.Median <= x.Max) || math.IsInf(x.Max, 0) {
				t.Errorf("%s: rates %+v", name, x)
			}
			if x.Class == "" || x.Way == "" {
				t.Errorf("%s: %+v does not say how", name, x)
			}
			t.Logf("%s: %+v", name, x)
		}
	}
	for _, kind := range []Kind{Read, FMA, Int8, Int4} {
		for _, n := range m.Threads() {
			if r := m.Burst(kind, n); !(r > 0) || math.IsInf(r, 0) {
				t.Errorf("burst of kind %d with %d threads: %v", kind, n, r)
			}
		}
	}
}

// TestWays runs every way, also those that are not the best: each stays in its region, walks all
// of it, and returns soon enough.
func TestWays(t *testing.T) {
	all, err := waysUpTo("")
	if err != nil {
		t.Fatal(err)
	}
	for kind, ways := range all {
		for _, w := range ways {
			r := region{b: make([]byte, 3*chunk)}
			places := map[int]bool{}
			shortest := time.Hour
			for range 20 {
				start := time.Now()
				if work := w.do(&r); !(work > 0) {
					t.Errorf("kind %d, %s %s: work %v", kind, w.class, w.name, work)
				}
				shortest = min(shortest, time.Since(start))
				places[r.at] = true
			}
			if kind == int(Read) && len(places) < 3 {
				t.Errorf("%s %s read in %d places", w.class, w.name, len(places))
			}
			if w.class != "go" && shortest > 10*time.Millisecond {
				t.Errorf("%s %s takes %v at a time", w.class, w.name, shortest)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		threads, bytes int
		class          string
	}{
		"no threads":    {0, 1 << 20, ""},
		"no memory":     {1, 0, ""},
		"little memory": {4, 1 << 20, ""},
		"negative":      {1, -1, ""},
		"instructions":  {1, 1 << 20, "sse9"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(tc.threads, tc.bytes, tc.class); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestClasses leaves out every way beyond the class.
func TestClasses(t *testing.T) {
	for last, class := range Classes() {
		ways, err := waysUpTo(class)
		if err != nil {
			t.Fatal(err)
		}
		for kind := range ways {
			if len(ways[kind]) == 0 {
				t.Errorf("%s: no way of kind %d", class, kind)
			}
			for _, w := range ways[kind] {
				if at := slices.Index(Classes(), w.class); at < 0 || at > last {
					t.Errorf("%s: kind %d has a way of %s", class, kind, w.class)
				}
			}
		}
	}
}

func TestTogether(t *testing.T) {
	for _, n := range []int{1, 3} {
		var calls [3]atomic.Int32
		rate := Together(n, time.Millisecond, func(thread int) float64 {
			calls[thread].Add(1)
			return 1
		})
		total := 0
		for i := range calls {
			c := int(calls[i].Load())
			if (c > 0) != (i < n) {
				t.Errorf("%d threads: %d calls on thread %d", n, c, i)
			}
			total += c
		}
		if !(rate > 0) || rate > float64(total)*1000 {
			t.Errorf("%d threads: %d calls of at least 1 ms in all at a rate of %v", n, total, rate)
		}
	}
}

func TestSpreadOf(t *testing.T) {
	if got := SpreadOf([]float64{4, 1, 3, 2}); got != (Spread{1, 2.5, 4}) {
		t.Errorf("spread %v", got)
	}
	if got := SpreadOf([]float64{7}); got != (Spread{7, 7, 7}) {
		t.Errorf("spread of one %v", got)
	}
}

func TestMachine(t *testing.T) {
	if CPU() == "" || CacheBytes() <= 0 || Load() < 0 {
		t.Errorf("CPU %q, cache %d, load %v", CPU(), CacheBytes(), Load())
	}
	if free, ok := FreeBytes(); ok && free <= 0 {
		t.Errorf("free memory %d", free)
	}
	if m := MemoryInUse(); runtime.GOOS == "linux" && !(0 < m.AnonymousBytes &&
		m.AnonymousBytes+m.FileBytes <= m.PeakBytes+m.PeakBytes/2) {
		t.Errorf("memory %+v", m)
	}
	before := ProcessTime()
	Together(1, 20*time.Millisecond, func(int) float64 { return 1 })
	if used := ProcessTime() - before; runtime.GOOS == "linux" && used <= 0 || used < 0 {
		t.Errorf("20 ms of work took %v of CPU time", used)
	}
	if slices.Contains(Flags(), "") {
		t.Errorf("flags %q", Flags())
	}
}
