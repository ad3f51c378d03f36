package coordinator

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPhilox checks the known answers that the generator's authors publish.
func TestPhilox(t *testing.T) {
	for _, tc := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
			[2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			[2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(tc.counter, tc.key); got != tc.want {
			t.Errorf("philox(%x, %x) = %x, want %x", tc.counter, tc.key, got, tc.want)
		}
	}
}

func TestUniformIsUniform(t *testing.T) {
	var bins [20]float64
	const draws = 100000
	for i := range uint64(draws) {
		u := uniform(7, i)
		if u < 0 || u >= 1 {
			t.Fatalf("uniform = %v", u)
		}
		bins[int(u*20)]++
	}
	chi := 0.0
	for _, n := range bins {
		chi += (n - draws/20) * (n - draws/20) / (draws / 20)
	}
	if chi > 45 { // 19 degrees of freedom: one seed in a thousand has more than 43.8
		t.Errorf("chi-square %v", chi)
	}
}

// plain are parameters that change nothing.
func plain() params { return params{topP: 1, repetition: 1} }

func TestGreedy(t *testing.T) {
	row := []float32{1, 3, -2, 3, 0}
	for name, tc := range map[string]struct {
		change func(*params)
		seen   map[int32]int
		want   int32
	}{
		"the first of equal ones": {func(*params) {}, nil, 1},
		"bias":                    {func(p *params) { p.bias = []bias{{2, 5.5}} }, nil, 2},
		"presence":                {func(p *params) { p.presence = 1 }, map[int32]int{1: 1}, 3},
		"presence spares the prompt": {func(p *params) { p.presence = 1 },
			map[int32]int{1: 0, 3: 1}, 1},
		"frequency": {func(p *params) { p.frequency = 1 },
			map[int32]int{1: 3, 3: 2}, 0}, // 0, 1: token 0 is the first of two ones
		"repetition includes the prompt": {func(p *params) { p.repetition = 4 },
			map[int32]int{1: 0, 3: 2}, 0},
		"repetition of negative logits": {func(p *params) {
			p.repetition = 2
			p.bias = []bias{{0, -3}, {1, -100}, {3, -100}, {4, -2.5}}
		}, map[int32]int{0: 1, 2: 0}, 0}, // 1/2-3 = -2.5, -4, -2.5
	} {
		t.Run(name, func(t *testing.T) {
			p := plain()
			tc.change(&p)
			var s sampler
			if got := s.choose(row, &p, tc.seen, 9); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// referenceSet lists what passes top-k, top-p and min-p, by sorting everything.
func referenceSet(row []float32, p *params) map[int32]float64 {
	var all []candidate
	for i, l := range row {
		all = append(all, candidate{int32(i), math.Exp(float64(l) / p.temperature)})
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if a.logit > b.logit {
			return -1
		} else if a.logit < b.logit {
			return 1
		}
		return 0
	})
	if p.topK > 0 && p.topK < len(all) {
		all = all[:p.topK]
	}
	total := 0.0
	for _, c := range all {
		total += c.logit
	}
	set := map[int32]float64{}
	sum := 0.0
	for _, c := range all {
		if c.logit < p.minP*all[0].logit {
			break
		}
		set[c.token] = c.logit
		if sum += c.logit; sum >= p.topP*total*(1-1e-12) && p.topP < 1 {
			break
		}
	}
	return set
}

func TestKeptSetEqualsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		row := make([]float32, rapid.IntRange(1, 700).Draw(t, "vocabulary"))
		spread := rapid.IntRange(1, 40).Draw(t, "spread")
		seed := rapid.Uint64().Draw(t, "seed")
		for i := range row { // few values, so that many are equal
			row[i] = float32(int(uniform(seed, uint64(i))*float64(spread))) / 4
		}
		p := plain()
		p.temperature = rapid.Float64Range(0.2, 3).Draw(t, "temperature")
		p.topK = rapid.SampledFrom([]int{0, 1, 2, 5, 50, 1000}).Draw(t, "k")
		p.topP = rapid.SampledFrom([]float64{1, 0.999, 0.9, 0.503, 0.01}).Draw(t, "p")
		p.minP = rapid.SampledFrom([]float64{0, 0.013, 0.31, 0.97}).Draw(t, "min")
		logits := make([]float64, len(row))
		for i := range row {
			logits[i] = float64(row[i])
		}
		got := map[int32]bool{}
		for _, c := range keep(logits, logits[argmax(logits)], &p, nil) {
			got[c.token] = true
		}
		want := referenceSet(row, &p)
		for token := range want {
			if !got[token] {
				t.Fatalf("token %d is missing: kept %d, want %d", token, len(got), len(want))
			}
		}
		if len(got) != len(want) {
			t.Fatalf("kept %d tokens, want %d", len(got), len(want))
		}
		var s sampler
		for position := range 20 {
			if token := s.choose(row, &p, nil, position); want[token] == 0 {
				t.Fatalf("chose token %d, which is not kept", token)
			}
		}
	})
}

// TestDistribution compares frequencies with probabilities by chi-square.
func TestDistribution(t *testing.T) {
	row := []float32{0.5, 2, -1, 1.25, 0, 1.75, -0.5, 0.25, 1, 1.5}
	for name, change := range map[string]func(*params){
		"temperature 1":   func(p *params) {},
		"temperature 0.5": func(p *params) { p.temperature = 0.5 },
		"top-k":           func(p *params) { p.topK = 4 },
		"top-p":           func(p *params) { p.topP = 0.8 },
		"min-p":           func(p *params) { p.minP = 0.3 },
		"all":             func(p *params) { p.topK, p.topP, p.minP, p.temperature = 7, 0.9, 0.1, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			p := plain()
			p.temperature, p.seed = 1, 42
			change(&p)
			want := referenceSet(row, &p)
			total := 0.0
			for _, w := range want {
				total += w
			}
			const draws = 50000
			count := map[int32]float64{}
			var s sampler
			for i := range draws {
				count[s.choose(row, &p, nil, i)]++
			}
			chi := 0.0
			for token, w := range want {
				expect := draws * w / total
				chi += (count[token] - expect) * (count[token] - expect) / expect
				delete(count, token)
			}
			if len(count) > 0 || chi > 28 { // 9 degrees: one seed in a thousand is over 27.9
				t.Errorf("chi-square %v, and tokens that are not kept: %v", chi, count)
			}
		})
	}
}

func TestExtremeParametersChooseATokenOfTheRow(t *testing.T) {
	row := []float32{-math.MaxFloat32, math.MaxFloat32, 0, math.MaxFloat32}
	for _, temperature := range []float64{math.SmallestNonzeroFloat32, 1, 100} {
		for _, topP := range []float64{math.SmallestNonzeroFloat32, 0.5, 1} {
			p := params{temperature: temperature, topP: topP, repetition: 1, seed: 3}
			var s sampler
			for i := range 100 {
				if got := s.choose(row, &p, nil, i); got != 1 && got != 3 {
					t.Errorf("temperature %v, top-p %v: token %d", temperature, topP, got)
				}
			}
		}
	}
}

func TestLogSum(t *testing.T) {
	row := []float32{1000, 1000, 999}
	want := 1000 + math.Log(2+math.Exp(-1))
	if got := logSum(row); math.Abs(got-want) > 1e-12 {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestBestOf compares with sorting, with many equal logits.
func TestBestOf(t *testing.T) {
	var top []candidate
	for i := range uint64(300) {
		row := make([]float32, 1+int(300*uniform(2, i)))
		all := make([]candidate, len(row))
		for j := range row {
			row[j] = float32(int(40*uniform(3, i<<10+uint64(j)))) - 20
			all[j] = candidate{int32(j), float64(row[j])}
		}
		slices.SortFunc(all, better)
		n := int(60 * uniform(4, i))
		top = bestOf(row, n, top)
		if want := all[:min(n, len(all))]; !slices.Equal(top, want) {
			t.Fatalf("best %d of %v: %v, want %v", n, row, top, want)
		}
		if got := argmax(row); got != int(all[0].token) {
			t.Fatalf("argmax of %v is %d, want %d", row, got, all[0].token)
		}
	}
}

// BenchmarkChoose measures one token of a large vocabulary; nothing is allocated.
func BenchmarkChoose(b *testing.B) {
	row := make([]float32, 202048)
	for i := range row {
		row[i] = float32(12 * uniform(1, uint64(i)))
	}
	seen := map[int32]int{1: 2, 5: 0, 70000: 1}
	for name, change := range map[string]func(*params){
		"greedy":      func(p *params) { p.temperature = 0 },
		"temperature": func(p *params) {},
		"top-k 50":    func(p *params) { p.topK = 50 },
		"top-p 0.9":   func(p *params) { p.topP = 0.9 },
		"penalties":   func(p *params) { p.temperature, p.presence, p.repetition = 0, 1, 1.1 },
	} {
		b.Run(name, func(b *testing.B) {
			p := plain()
			p.temperature = 1
			change(&p)
			var s sampler
			s.choose(row, &p, seen, 0)
			b.ReportAllocs()
			position := 0
			for b.Loop() {
				position++
				s.choose(row, &p, seen, position)
			}
		})
	}
}
