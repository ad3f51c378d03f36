package devicetest

import (
	"slices"

	"drover/kernel"
	"drover/tensor"
)

var formats = []kernel.Format{kernel.WeightsF32, kernel.WeightsBF16, kernel.WeightsInt8,
	kernel.WeightsInt4, kernel.WeightsFP8}

// matrix returns a matrix of random weights.
func (s *suite) matrix(n, k int, f kernel.Format) *kernel.Matrix {
	s.Helper()
	m, err := kernel.NewMatrix(n, k, f)
	if err != nil {
		s.Fatal(err)
	}
	for i := range n {
		if err := m.SetRow(i, s.random(1, k).Data); err != nil {
			s.Fatal(err)
		}
	}
	return m
}

func (s *suite) upload(m *kernel.Matrix) kernel.Weights {
	s.Helper()
	w, err := s.d.Upload(m)
	if err != nil {
		s.Fatal(err)
	}
	n, k := w.Shape()
	if n != m.N || k != m.K || w.Format() != m.Format() || w.Bytes() < 1 {
		s.Fatalf("weights of a %d×%d matrix of %v: %d×%d of %v, %d bytes", m.N, m.K, m.Format(),
			n, k, w.Format(), w.Bytes())
	}
	return w
}

// mul multiplies with three matrices at a time, of one format and of different ones.
func (s *suite) mul() {
	for i, f := range formats {
		g := formats[(i+1)%len(formats)]
		for _, k := range []int{33, 192} {
			matrices := []*kernel.Matrix{s.matrix(150, k, f), s.matrix(64, k, f), s.matrix(7, k, g)}
			var weights []kernel.Weights
			for _, m := range matrices {
				weights = append(weights, s.upload(m))
			}
			for _, n := range counts {
				x := s.random(n, k)
				in := s.on(x)
				var products []kernel.Product
				for j, m := range matrices {
					products = append(products, kernel.Product{Y: s.on(s.random(n, m.N)), W: weights[j]})
				}
				s.d.Mul(in, products)
				for j, m := range matrices {
					want := tensor.MakeRows(n, m.N)
					m.Mul(want, x)
					s.want(products[j].Y, want, "%d rows × %d×%d of %v", n, m.N, m.K, m.Format())
				}
			}
		}
	}
}

// network is a feed-forward network on the host and on the device.
type network struct {
	gateUp, down *kernel.Matrix
	part         kernel.FeedForwardPart
}

func (s *suite) network(hidden, width int, gateUp, down kernel.Format) network {
	s.Helper()
	n := network{gateUp: s.matrix(2*width, hidden, gateUp), down: s.matrix(hidden, width, down)}
	n.part = kernel.FeedForwardPart{GateUp: s.upload(n.gateUp), Down: s.upload(n.down)}
	return n
}

// forward computes the network on the host.
func (n *network) forward(y, x tensor.Rows) {
	inner, act := tensor.MakeRows(x.N, n.gateUp.N), tensor.MakeRows(x.N, n.down.K)
	n.gateUp.Mul(inner, x)
	kernel.SwiGLU(act, inner)
	n.down.Mul(y, act)
}

// feedForward runs networks of different formats and widths, in every order of few and
// many rows, with rows between them that belong to none.
func (s *suite) feedForward() {
	const hidden = 72
	for i, f := range formats {
		g := formats[(i+1)%len(formats)]
		networks := []network{s.network(hidden, 64, f, f), s.network(hidden, 64, f, f),
			s.network(hidden, 128, f, f), s.network(hidden, 40, f, g), s.network(hidden, 64, g, f)}
		for _, rows := range [][]int{{1, 0, 1, 1, 1}, {3, 2, 0, 5, 1}, {0, 0, 0, 0, 0},
			{250, 9, 1, 2, 3}, {1, 300, 2, 30, 4}} {
			var parts []kernel.FeedForwardPart
			n := 0
			for j := range networks {
				p := networks[j].part
				p.From, p.To = n, n+rows[j]
				parts = append(parts, p)
				n = p.To + j%2 // a row that is in no part after every second
			}
			x, want := s.random(n, hidden), s.random(n, hidden)
			y := s.on(want)
			if rows[0] == 3 { // in any order
				slices.Reverse(parts)
				slices.Reverse(networks)
			}
			s.d.FeedForward(y, s.on(x), parts)
			for j, p := range parts {
				networks[j].forward(want.Slice(p.From, p.To), x.Slice(p.From, p.To))
			}
			s.want(y, want, "networks of %v with %v rows", f, rows)
		}
	}
}
