// Package devicetest checks that a kernel.Device computes what the package kernel says,
// so that every device passes the same test.
package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// Options says what is asked of a device.
type Options struct {
	// Tolerance is the largest error of a result, relative to the largest result of its
	// operation. Zero asks for the bytes of the CPU's kernels.
	Tolerance float64
}

// suite is a device under test.
type suite struct {
	*testing.T
	d    kernel.Device
	opts Options
	rng  *rand.Rand
}

// Run checks a device.
func Run(t *testing.T, d kernel.Device, opts Options) {
	for _, part := range []struct {
		name string
		run  func(*suite)
	}{
		{"memory", (*suite).memory}, {"refuses", (*suite).refuses},
		{"embed", (*suite).embed}, {"norm", (*suite).norm}, {"rotate", (*suite).rotate},
		{"scale rows", (*suite).scaleRows}, {"add", (*suite).add}, {"gather", (*suite).gather},
		{"scatter", (*suite).scatter}, {"mul", (*suite).mul},
		{"feed forward", (*suite).feedForward}, {"attend", (*suite).attend},
		{"order", (*suite).order}, {"ahead", (*suite).ahead}, {"misfits", (*suite).misfits},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.run(&suite{t, d, opts, rand.New(rand.NewPCG(5, 6))})
		})
	}
}

// counts are numbers of rows: none, one, some, and more than run together.
var counts = []int{0, 1, 3, 17, 70}

// random returns rows of normal numbers.
func (s *suite) random(n, dim int) tensor.Rows {
	r := tensor.MakeRows(n, dim)
	for i := range r.Data {
		r.Data[i] = float32(s.rng.NormFloat64())
	}
	return r
}

// copyOf returns rows of the same numbers in memory of their own.
func copyOf(r tensor.Rows) tensor.Rows {
	c := tensor.MakeRows(r.N, r.Dim)
	copy(c.Data, r.Data)
	return c
}

// on returns rows of the device with the numbers of r. They begin in the middle of a
// piece of memory.
func (s *suite) on(r tensor.Rows) kernel.Rows {
	s.Helper()
	all, err := s.d.Allocate(r.N+2, r.Dim)
	if err != nil {
		s.Fatal(err)
	}
	out := all.Slice(1, 1+r.N)
	s.d.Write(out, r)
	return out
}

// want reads rows and compares them.
func (s *suite) want(got kernel.Rows, want tensor.Rows, what string, args ...any) {
	s.Helper()
	r, err := s.d.Read(got)
	if err != nil {
		s.Fatal(err)
	}
	if r.N != want.N || r.Dim != want.Dim {
		s.Fatalf("%s: (%d,%d), want (%d,%d)", fmt.Sprintf(what, args...), r.N, r.Dim, want.N, want.Dim)
	}
	largest := 0.0
	for _, v := range want.Data {
		largest = max(largest, math.Abs(float64(v)))
	}
	for i, w := range want.Data {
		g := r.Data[i]
		same := math.Float32bits(g) == math.Float32bits(w)
		if !same && !(math.Abs(float64(g)-float64(w)) <= s.opts.Tolerance*largest) {
			s.Fatalf("%s: row %d, column %d is %g, want %g", fmt.Sprintf(what, args...),
				i/want.Dim, i%want.Dim, g, w)
		}
	}
}

// panics checks that what the caller must not do is noticed.
func (s *suite) panics(what string, f func()) {
	s.Helper()
	defer func() {
		if recover() == nil {
			s.Errorf("%s: no panic", what)
		}
	}()
	f()
}

func (s *suite) memory() {
	r, err := s.d.Allocate(4, 6)
	if err != nil {
		s.Fatal(err)
	}
	s.want(r, tensor.MakeRows(4, 6), "fresh rows")
	x := s.random(2, 6)
	s.d.Write(r.Slice(1, 3), x)
	wrote := copyOf(x)
	clear(x.Data) // the caller's again
	all := tensor.MakeRows(4, 6)
	copy(all.Slice(1, 3).Data, wrote.Data)
	s.want(r, all, "rows 1 and 2 written")
	s.want(r.Slice(1, 3).Split(3), tensor.Rows{Data: wrote.Data, N: 4, Dim: 3}, "split")
	s.want(r.Slice(2, 2), tensor.Rows{Dim: 6}, "no rows")

	before := r.Memory
	if err := kernel.Resize(s.d, &r, 3, 8); err != nil || r.N != 3 || r.Dim != 8 ||
		r.Memory != before {
		s.Errorf("resized to 3 rows of 8: %v, (%d,%d), the memory of before %t", err, r.N, r.Dim,
			r.Memory == before)
	}
	if err := kernel.Resize(s.d, &r, 5, 8); err != nil || r.N != 5 || r.Dim != 8 ||
		r.Memory.Elements() < 40 {
		s.Errorf("resized to 5 rows of 8: %v, (%d,%d)", err, r.N, r.Dim)
	}
	if err := s.d.Sync(); err != nil {
		s.Errorf("Sync() = %v", err)
	}
}

// refuses checks the errors about what may come from outside.
func (s *suite) refuses() {
	for _, shape := range [][2]int{{-1, 4}, {4, -1}, {math.MaxInt / 2, 4}, {1 << 40, 1 << 40}} {
		if _, err := s.d.Allocate(shape[0], shape[1]); err == nil {
			s.Errorf("Allocate(%d, %d): no error", shape[0], shape[1])
		}
		var r kernel.Rows
		if err := kernel.Resize(s.d, &r, shape[0], shape[1]); err == nil {
			s.Errorf("Resize(%d, %d): no error", shape[0], shape[1])
		}
	}
	if _, err := s.d.Upload(nil); err == nil {
		s.Error("Upload(nil): no error")
	}
	layout := kernel.KVLayout{Heads: 2, HeadDim: 8, Precision: kernel.PrecisionBF16}
	for _, tiles := range []int{-1, math.MaxInt / 8} {
		if _, err := s.d.AllocateKV(layout, tiles); err == nil {
			s.Errorf("AllocateKV of %d tiles: no error", tiles)
		}
	}
	if _, err := s.d.AllocateKV(kernel.KVLayout{}, 1); err == nil {
		s.Error("AllocateKV of no layout: no error")
	}
	for what, t := range map[string]kernel.TableBytes{
		"too few bytes":  {Data: make([]byte, 30), DType: tensor.BF16, Rows: 4, Dim: 4},
		"too many bytes": {Data: make([]byte, 34), DType: tensor.BF16, Rows: 4, Dim: 4},
		"no rows":        {DType: tensor.BF16, Dim: 4},
		"integers":       {Data: make([]byte, 16), DType: tensor.I8, Rows: 4, Dim: 4},
	} {
		if _, err := s.d.UploadTable(t); err == nil {
			s.Errorf("table with %s: no error", what)
		}
	}
}

// order checks that operations take effect in the order of the calls.
func (s *suite) order() {
	const n, dim = 5, 130
	x, want := s.random(n, dim), tensor.MakeRows(n, dim)
	a, b := s.on(x), s.on(want)
	for i := range 20 {
		s.d.Add(b, a)
		s.d.Gather(a, b, kernel.Picks{Rows: []int32{4, 3, 2, 1, 0},
			Weights: []float32{0.5, 0.5, 0.5, 0.5, 0.5}}, tensor.F32)
		kernel.Add(want.Data, x.Data)
		for j := range n {
			copy(x.Row(j), want.Row(n-1-j))
		}
		kernel.Scale(x.Data, 0.5)
		if i == 10 {
			s.want(b, want, "after 10 rounds")
		}
	}
	s.want(a, x, "after 20 rounds")
}

// ahead reads rows some operations after StartRead, in and out of order, more of them than
// Ahead allows, and such as were written to meanwhile.
func (s *suite) ahead() {
	const n, dim, slots = 9, 40, 7
	var x, y [slots]kernel.Rows
	for i := range slots {
		x[i], y[i] = s.on(s.random(n, dim)), s.on(s.random(n, dim))
	}
	for round := range 30 {
		var want [slots]tensor.Rows
		for i := range slots {
			in := s.random(n, dim)
			s.d.Write(x[i], in)
			s.d.Gather(y[i], x[i], kernel.Picks{Rows: []int32{8, 7, 6, 5, 4, 3, 2, 1, 0}}, tensor.F32)
			s.d.Add(y[i], x[i])
			arrival := s.d.StartRead(y[i])
			if s.rng.IntN(4) == 0 {
				if err := arrival.Wait(); err != nil {
					s.Fatal(err)
				}
			}
			want[i] = tensor.MakeRows(n, dim)
			for j := range n {
				copy(want[i].Row(j), in.Row(n-1-j))
			}
			kernel.Add(want[i].Data, in.Data)
			clear(in.Data)                   // the caller's again
			if i > 0 && s.rng.IntN(3) == 0 { // what is on its way is written to
				s.d.Add(y[i-1], x[i-1])
				last := s.random(n, dim)
				s.d.Write(x[i-1], last)
				s.d.Write(y[i-1], last)
				copy(want[i-1].Data, last.Data)
				if s.rng.IntN(2) == 0 {
					s.d.Add(y[i-1], x[i-1])
					kernel.Add(want[i-1].Data, last.Data)
				}
			}
			if back := i - max(s.d.Ahead()-1, 0); back >= 0 && round%2 == 0 {
				s.want(y[back], want[back], "round %d, rows %d", round, back)
			}
		}
		for i := range slots {
			i = (i + round) % slots
			s.want(y[i], want[i], "round %d, rows %d in the end", round, i)
		}
	}
	for i := range slots { // what is there, and written to before it is read
		s.d.StartRead(y[i])
		if i%2 == 0 {
			if err := s.d.Sync(); err != nil {
				s.Fatal(err)
			}
		}
		in := s.random(n, dim)
		s.d.Write(y[i], in)
		if i%3 == 0 {
			s.d.Add(y[i], y[i])
			kernel.Add(in.Data, in.Data)
		}
		s.want(y[i], in, "rows %d, written after they were there", i)
	}
	if err := s.d.StartRead(x[0].Slice(0, 0)).Wait(); err != nil {
		s.Error(err)
	}
	s.d.StartRead(x[0].Slice(1, 3))
	s.want(x[0].Slice(2, 3), s.read(x[0].Slice(1, 3)).Slice(1, 2), "a part of what was read")
}

// read returns a copy of rows.
func (s *suite) read(r kernel.Rows) tensor.Rows {
	s.Helper()
	rows, err := s.d.Read(r)
	if err != nil {
		s.Fatal(err)
	}
	return copyOf(rows)
}

// misfits checks that shapes that do not fit are noticed.
func (s *suite) misfits() {
	x, y := s.on(s.random(3, 8)), s.on(s.random(3, 12))
	less := s.on(s.random(2, 8))
	m := s.upload(s.matrix(16, 8, kernel.WeightsBF16))
	for what, f := range map[string]func(){
		"a slice beyond the rows":  func() { x.Slice(2, 4) },
		"a split that leaves some": func() { x.Split(3) },
		"a write of fewer rows":    func() { s.d.Write(x, s.random(2, 8)) },
		"a norm of other rows":     func() { s.d.Norm(y, x, kernel.Rows{}, 0) },
		"a norm of another weight": func() { s.d.Norm(x, x, y.Slice(0, 1), 0) },
		"rotation by fewer rows":   func() { s.d.Rotate(x, less.Split(4).Slice(0, 2), x, 0) },
		"scaling by fewer rows":    func() { s.d.ScaleRows(x, less) },
		"a sum of other rows":      func() { s.d.Add(x, less) },
		"picks of fewer rows": func() {
			s.d.Gather(x, x, kernel.Picks{Rows: []int32{1}}, tensor.F32)
		},
		"picks with fewer weights": func() {
			s.d.Scatter(x, x, kernel.Picks{Rows: []int32{0, 1, 2}, Weights: []float32{1}})
		},
		"a product of other inputs":  func() { s.d.Mul(y, []kernel.Product{{Y: x, W: m}}) },
		"a product of other outputs": func() { s.d.Mul(x, []kernel.Product{{Y: y, W: m}}) },
		"rows beyond": func() {
			s.d.FeedForward(x, x, []kernel.FeedForwardPart{{
				GateUp: m, Down: s.upload(s.matrix(8, 8, kernel.WeightsBF16)), To: 4}})
		},
		"a network that does not fit": func() {
			s.d.FeedForward(x, x, []kernel.FeedForwardPart{{GateUp: m, Down: m, To: 1}})
		},
	} {
		s.panics(what, f)
	}
}
