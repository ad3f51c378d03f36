package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// roundSeconds is how far apart the planner looks at the load.
const roundSeconds = 30

// trace is a cluster whose load changes from round to round, planned as package cluster does.
type trace struct {
	in     Input
	tally  Tally
	pace   Pace
	goesOn bool
	round  int

	changes, moved, most int
}

// next observes one round's load and plans. It returns the explanation of a change.
func (c *trace) next(t testing.TB, load [][]float64) (Explanation, bool) {
	t.Helper()
	c.tally.Observe(load, roundSeconds)
	c.in.Load = c.tally.Rates()
	c.in.HoldLoad = !c.goesOn && !c.pace.Due(c.round)
	p, why, err := Next(c.in)
	if err != nil {
		t.Fatal(err)
	}
	changed := p != c.in.Current
	if changed && c.in.Current != nil {
		if !c.in.HoldLoad {
			c.pace.Changed(c.round, why.Deferred)
		}
		c.changes, c.moved, c.most = c.changes+1, c.moved+why.Added, max(c.most, why.Added)
	}
	c.in.Current, c.goesOn = p, changed && why.Deferred
	c.round++
	return why, changed
}

// hot is the load of a round: so much in all in each layer, spread evenly but for experts
// like 3*10, the third, which has ten times as much as others.
func (s *script) hot(words []string) [][]float64 {
	load := grid[float64](len(s.in.Layers), s.in.Experts)
	for l := range load {
		sum := 0.0
		for e := range load[l] {
			load[l][e] = 1
		}
		for _, w := range words {
			expert, times, _ := strings.Cut(w, "*")
			load[l][number(expert)] = float64(number(times))
		}
		for _, w := range load[l] {
			sum += w
		}
		for e := range load[l] {
			load[l][e] *= 1e5 / sum
		}
	}
	return load
}

// mix is a load between two.
func mix(a, b [][]float64, part float64) [][]float64 {
	m := grid[float64](len(a), len(a[0]))
	for l := range m {
		for e := range m[l] {
			m[l][e] = (1-part)*a[l][e] + part*b[l][e]
		}
	}
	return m
}

// rounds runs "rounds n=40 every=4 to=3*10,5*10": so many rounds of the present load; with
// to, of that and the other load in turns of so many rounds; with drift, slowly from the
// one to the other. It prints each change of the plan, and sums up.
func (s *script) rounds(t testing.TB, args []string) string {
	if s.trace == nil {
		s.trace = &trace{}
	}
	c := s.trace
	before := s.in.Load
	c.in, c.in.Current = s.in, s.in.Current
	c.changes, c.moved, c.most = 0, 0, 0
	start, n, every := c.round, number(value(args, "n")), number(value(args, "every"))
	to := value(args, "to")
	out, last := "", 0
	for i := range n {
		load := before
		switch {
		case to != "" && every > 0 && i/every%2 == 0:
			load = s.hot(strings.Split(to, ","))
		case to != "" && every == 0:
			load = mix(before, s.hot(strings.Split(to, ",")), float64(i+1)/float64(n))
		}
		s.in.Load = load
		was := c.in.Current
		if why, changed := c.next(t, load); changed && was != nil {
			last = i + 1
			out += fmt.Sprintf("round %d: added %d, dropped %d, load of the fullest node %.2f -> %.2f\n",
				i+1, why.Added, why.Dropped, ratios(was, load), ratios(c.in.Current, load))
		}
	}
	s.in.Current = c.in.Current
	return out + fmt.Sprintf("%d rounds after round %d: %d changes, the last in round %d, moved %d, at most %d at once; fullest node %.2f\n",
		n, start, c.changes, last, c.moved, c.most, ratios(c.in.Current, s.in.Load))
}

// TestSwingingLoad lets the load swing between two shapes, in turns of any length, and
// bounds the changes of the plan; then it stays, and the plan must follow and come to rest.
func TestSwingingLoad(t *testing.T) {
	const rounds = 384
	for _, every := range []int{1, 2, 4, 8, 21, 34} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			in := setting{8, 128, 32, 1, 144}.input()
			a, b := skewed(1, 8, 128, 1), skewed(2, 8, 128, 1)
			scale(a, 1e5)
			scale(b, 1e5)
			c := &trace{in: in}
			for i := range rounds {
				load := a
				if i/every%2 == 1 {
					load = b
				}
				c.next(t, load)
			}
			t.Logf("%d changes, %d moved, at most %d at once", c.changes, c.moved, c.most)
			if c.changes > 32 {
				t.Errorf("%d changes in %d rounds", c.changes, rounds)
			}
			settle := 0
			for i := range 80 {
				if _, changed := c.next(t, a); changed {
					settle = i + 1
				}
			}
			if settle > 60 {
				t.Errorf("the plan still changes in round %d", settle)
			}
			if got := ratios(c.in.Current, a); got > 1.15 {
				t.Errorf("at rest the fullest node has %.2f of the mean", got)
			}
		})
	}
}

// scale makes each layer's load add up to the same.
func scale(load [][]float64, to float64) {
	for l := range load {
		sum := 0.0
		for _, w := range load[l] {
			sum += w
		}
		for e := range load[l] {
			load[l][e] *= to / sum
		}
	}
}

// TestSteadyLoad plans for a load that is measured anew in each round, with the noise of
// counting rows: the plan must come to rest within a few rounds and stay.
func TestSteadyLoad(t *testing.T) {
	for _, spread := range []float64{0, 0.5, 1} {
		t.Run(fmt.Sprint(spread), func(t *testing.T) {
			load := skewed(3, 8, 128, spread)
			scale(load, 4000)
			r := rand.New(rand.NewPCG(9, 9))
			c := &trace{in: setting{8, 128, 16, 1, 144}.input()}
			last := 0
			for i := range 200 {
				if _, changed := c.next(t, noisy(r, load)); changed {
					last = i + 1
				}
			}
			t.Logf("%d changes, the last in round %d, %d moved, ratio %.3f", c.changes, last, c.moved,
				ratios(c.in.Current, load))
			if last > 100 {
				t.Errorf("the plan still changes in round %d", last)
			}
			if got := ratios(c.in.Current, load); got > 1.15 {
				t.Errorf("the fullest node has %.2f of the mean", got)
			}
		})
	}
}

// noisy draws counts with the given means.
func noisy(r *rand.Rand, load [][]float64) [][]float64 {
	counts := grid[float64](len(load), len(load[0]))
	for l := range load {
		for e, m := range load[l] {
			counts[l][e] = max(math.Round(m+math.Sqrt(m)*r.NormFloat64()), 0)
		}
	}
	return counts
}

// TestBoundedRounds bounds the moves of a round and lets the load step: the plan must
// follow in as many rounds as the moves need, and a few.
func TestBoundedRounds(t *testing.T) {
	in := setting{8, 128, 32, 1, 144}.input()
	in.MaxMoveBytes = 40
	c := &trace{in: in}
	a, b := skewed(1, 8, 128, 1), skewed(2, 8, 128, 1)
	scale(a, 1e5)
	scale(b, 1e5)
	for range 40 {
		c.next(t, a)
	}
	c.changes, c.moved, c.most = 0, 0, 0
	last := 0
	for i := range 60 {
		if _, changed := c.next(t, b); changed {
			last = i + 1
		}
	}
	t.Logf("%d changes, the last in round %d, %d moved, at most %d at once", c.changes, last, c.moved, c.most)
	if int64(c.most) > in.MaxMoveBytes {
		t.Errorf("%d moved at once, at most %d", c.most, in.MaxMoveBytes)
	}
	if most := c.moved/int(in.MaxMoveBytes) + 30; last > most {
		t.Errorf("the plan still changes in round %d, want at most %d", last, most)
	}
	if got := ratios(c.in.Current, b); got > 1.15 {
		t.Errorf("the fullest node has %.2f of the mean", got)
	}
}

// TestLoadRecord checks what a load record keeps, and what is refused.
func TestLoadRecord(t *testing.T) {
	load := skewed(5, 3, 7, 2)
	load[1][3] = 0
	record, err := EncodeLoad(load)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeLoad(record, 3, 7)
	if err != nil {
		t.Fatal(err)
	}
	most := slices.Max(slices.Concat(load...))
	for l := range load {
		for e, want := range load[l] {
			if d := math.Abs(got[l][e] - want); d > 0.022*want && d > most/60000 {
				t.Errorf("load %d.%d is %v, was %v", l, e, got[l][e], want)
			}
		}
	}
	for n := range record {
		if _, err := DecodeLoad(record[:n], 3, 7); err == nil {
			t.Errorf("DecodeLoad accepts the first %d bytes", n)
		}
	}
	if _, err := DecodeLoad(record, 7, 3); err == nil {
		t.Error("DecodeLoad accepts another shape")
	}
	if _, err := EncodeLoad(grid[float64](1000, 1000)); err == nil {
		t.Error("EncodeLoad accepts a million experts")
	}
}

// FuzzDecodeLoad checks that whatever is read can be written, and is loads.
func FuzzDecodeLoad(f *testing.F) {
	record, err := EncodeLoad(skewed(5, 2, 4, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Fuzz(func(t *testing.T, record []byte) {
		load, err := DecodeLoad(record, 2, 4)
		if err != nil {
			return
		}
		for l := range load {
			for _, w := range load[l] {
				if !(w >= 0 && w <= math.MaxFloat32) {
					t.Fatalf("a load of %v", w)
				}
			}
		}
		if _, err := EncodeLoad(load); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTallyForgetsSlowly checks what a quiet night and the checks of health do.
func TestTallyForgetsSlowly(t *testing.T) {
	var day Tally
	for range 20 {
		day.Observe([][]float64{{900, 100}}, 30)
	}
	for range 20000 {
		day.Observe([][]float64{{0, 3}}, 5)
	}
	rates := day.Rates()
	if got := rates[0][0] / rates[0][1]; got < 5 {
		t.Errorf("after the night the experts' loads are as %.1f to 1, were as 9 to 1", got)
	}
	for range 20 {
		day.Observe([][]float64{{100, 900}}, 30)
	}
	rates = day.Rates()
	if got := rates[0][1] / rates[0][0]; got < 5 {
		t.Errorf("after ten minutes of another load they are as 1 to %.1f, want 9", got)
	}
	if (&Tally{}).Rates() != nil {
		t.Error("a Tally that has seen nothing has rates")
	}
}
