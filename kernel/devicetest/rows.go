package devicetest

import (
	"encoding/binary"
	"math"

	"drover/kernel"
	"drover/tensor"
)

// widths are numbers of columns: vectors of any size have a rest.
var widths = []int{1, 12, 64, 130, 1000}

func (s *suite) embed() {
	const rows = 9
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		for _, dim := range widths {
			data, values := s.table(rows, dim, d)
			table, err := s.d.UploadTable(kernel.TableBytes{Data: data, DType: d, Rows: rows, Dim: dim})
			if err != nil {
				s.Fatal(err)
			}
			if n, k := table.Shape(); n != rows || k != dim {
				s.Errorf("the table's shape is %d, %d, want %d, %d", n, k, rows, dim)
			}
			for _, n := range counts {
				x, want := s.on(s.random(n, dim)), tensor.MakeRows(n, dim)
				tokens := make([]int32, n)
				for i := range tokens {
					tokens[i] = int32(s.rng.IntN(rows))
					copy(want.Row(i), values.Row(int(tokens[i])))
				}
				s.d.Embed(x, table, tokens)
				clear(tokens) // the caller's again
				s.want(x, want, "%d tokens of %d elements of %v", n, dim, d)
			}
		}
	}
}

// table returns a table's bytes and its values.
func (s *suite) table(rows, dim int, d tensor.DType) (data []byte, values tensor.Rows) {
	values = s.random(rows, dim)
	for i, v := range values.Data {
		switch d {
		case tensor.BF16:
			h := tensor.Float32ToBF16(v)
			data, values.Data[i] = binary.LittleEndian.AppendUint16(data, h), tensor.BF16ToFloat32(h)
		case tensor.F16:
			h := tensor.Float32ToF16(v)
			data, values.Data[i] = binary.LittleEndian.AppendUint16(data, h), tensor.F16ToFloat32(h)
		default:
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
	}
	return data, values
}

func (s *suite) norm() {
	for _, dim := range widths {
		weight := s.random(1, dim)
		for _, n := range counts {
			x, want := s.random(n, dim), tensor.MakeRows(n, dim)
			in, out := s.on(x), s.on(want)
			s.d.Norm(out, in, s.on(weight), 1e-5)
			kernel.RMSNorm(want, x, weight.Data, 1e-5)
			s.want(out, want, "%d rows of %d with a weight", n, dim)
			s.d.Norm(in, in, kernel.Rows{}, 1e-6)
			kernel.RMSNorm(x, x, nil, 1e-6)
			s.want(in, x, "%d rows of %d in place", n, dim)
		}
	}
}

func (s *suite) rotate() {
	const heads = 3
	for _, half := range []int{1, 4, 33, 64} {
		for _, n := range counts {
			cos, sin := s.random(n, half), s.random(n, half)
			for form, rotate := range map[kernel.RotaryForm]func(row, cos, sin []float32){
				kernel.RotaryPairs: kernel.RotatePairs, kernel.RotaryHalves: kernel.RotateHalves,
			} {
				x := s.random(n, heads*2*half)
				on := s.on(x)
				s.d.Rotate(on, s.on(cos), s.on(sin), form)
				for i := range n {
					rotate(x.Row(i), cos.Row(i), sin.Row(i))
				}
				s.want(on, x, "%d rows, form %d, half a head of %d", n, form, half)
			}
		}
	}
}

func (s *suite) scaleRows() {
	for _, dim := range widths {
		for _, n := range counts {
			x, factors := s.random(n, dim), s.random(n, 1)
			on := s.on(x)
			s.d.ScaleRows(on, s.on(factors))
			for i := range n {
				kernel.Scale(x.Row(i), factors.Data[i])
			}
			s.want(on, x, "%d rows of %d", n, dim)
		}
	}
}

func (s *suite) add() {
	for _, dim := range widths {
		for _, n := range counts {
			y, x := s.random(n, dim), s.random(n, dim)
			on := s.on(y)
			s.d.Add(on, s.on(x))
			kernel.Add(y.Data, x.Data)
			s.want(on, y, "%d rows of %d", n, dim)
		}
	}
}

// picks returns n picks of some rows, with weights or without.
func (s *suite) picks(n, rows int, weights bool) kernel.Picks {
	p := kernel.Picks{Rows: make([]int32, n)}
	for i := range p.Rows {
		p.Rows[i] = int32(s.rng.IntN(rows))
	}
	if weights {
		p.Weights = s.random(1, n).Data
	}
	return p
}

// forget overwrites picks, which are the caller's again.
func forget(p kernel.Picks) {
	clear(p.Rows)
	clear(p.Weights)
}

func (s *suite) gather() {
	const rows = 7
	for _, dim := range widths {
		x := s.random(rows, dim)
		for _, n := range counts {
			for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
				for _, weights := range []bool{false, true} {
					p, want := s.picks(n, rows, weights), tensor.MakeRows(n, dim)
					for i, r := range p.Rows {
						copy(want.Row(i), x.Row(int(r)))
						if weights {
							kernel.Scale(want.Row(i), p.Weights[i])
						}
					}
					kernel.Round(want.Data, d)
					y := s.on(s.random(n, dim))
					s.d.Gather(y, s.on(x), p, d)
					forget(p)
					s.want(y, want, "%d rows of %d, weights %t, %v", n, dim, weights, d)
				}
			}
		}
	}
}

func (s *suite) scatter() {
	const rows = 7
	for _, dim := range widths {
		for _, n := range counts {
			for _, weights := range []bool{false, true} {
				p, x, want := s.picks(n, rows, weights), s.random(n, dim), s.random(rows, dim)
				y, on := s.on(want), s.on(x)
				for i, r := range p.Rows {
					if weights {
						kernel.Scale(x.Row(i), p.Weights[i])
					}
					kernel.Add(want.Row(int(r)), x.Row(i))
				}
				s.d.Scatter(y, on, p)
				forget(p)
				s.want(y, want, "%d rows of %d, weights %t", n, dim, weights)
			}
		}
	}
}
