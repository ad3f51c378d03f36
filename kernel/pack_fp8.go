package kernel

import (
	"fmt"
	"math"

	"drover/tensor"
)

// Scales are the factors of a source of F8E4M3. Blocks of Outputs × Inputs weights share one:
// that of output n of a tensor and input k is Values[n/Outputs*Stride+k/Inputs].
type Scales struct {
	Values                  []float32
	Outputs, Inputs, Stride int
}

// row returns the scales of output n.
func (s *Scales) row(n int) []float32 { return s.Values[n/s.Outputs*s.Stride:] }

// groups reports whether all of a group's inputs, of k, share a scale.
func (s *Scales) groups(k int) bool { return s.Inputs%groupInputs == 0 || s.Inputs >= k }

// checkScales refuses a source of F8E4M3 whose scales are not those of count outputs.
func (s *Source) checkScales(count, k int) error {
	f := s.Scales
	switch {
	case f == nil:
		return fmt.Errorf("pack %d × %d weights of %v: there are no scales", count, k, s.Type)
	case s.InputStride != 1:
		return fmt.Errorf("pack %d × %d weights of %v: inputs are not neighbours", count, k, s.Type)
	case f.Outputs < 1 || f.Inputs < 1 || f.Stride <= (k-1)/f.Inputs ||
		(s.First+count-1)/f.Outputs*f.Stride+(k-1)/f.Inputs >= len(f.Values):
		return fmt.Errorf("pack %d × %d weights of %v: %d scales of %d × %d are too few", count, k,
			s.Type, len(f.Values), f.Outputs, f.Inputs)
	}
	return nil
}

// codes packs a few outputs of a source of F8E4M3, as they are where the format is e4m3 too.
func (p *Packer) codes(m *Matrix, first, count int, s Source) error {
	if err := s.checkScales(count, m.K); err != nil {
		return err
	}
	p.panel = grow(p.panel, m.K)
	for r := range count {
		codes, scales := s.Data[r*s.OutputStride:][:m.K], s.Scales.row(s.First+r)
		err := checkCodes(codes, scales[:(m.K-1)/s.Scales.Inputs+1])
		switch {
		case err != nil:
		case m.format == WeightsFP8 && s.Scales.groups(m.K):
			err = m.setCodes(first+r, codes, scales, s.Scales.Inputs)
		default:
			for k, c := range codes {
				p.panel[k] = tensor.E4M3ToFloat32(c) * scales[k/s.Scales.Inputs]
			}
			if !Finite(p.panel[:m.K]) {
				err = fmt.Errorf("its scales make weights infinite")
				break
			}
			err = m.SetRow(first+r, p.panel[:m.K])
		}
		if err != nil {
			return fmt.Errorf("output %d: %w", s.First+r, err)
		}
	}
	return nil
}

// checkCodes refuses codes and scales that are not finite.
func checkCodes(codes []byte, scales []float32) error {
	for k, c := range codes {
		if c&0x7f == 0x7f {
			return fmt.Errorf("input %d is not finite (NaN)", k)
		}
	}
	for _, v := range scales {
		if !(v >= 0 && v <= math.MaxFloat32) {
			return fmt.Errorf("has the scale %g, which must be finite and not negative", v)
		}
	}
	return nil
}

// setCodes packs codes of output n, of which so many share a scale.
func (m *Matrix) setCodes(n int, from []byte, scales []float32, inputs int) error {
	block, r := m.block(n-n%blockRows), n%blockRows
	for g := 0; g*groupInputs < m.K; g++ {
		scale := scales[g*groupInputs/inputs]
		if scale > largestFP8Scale {
			return fmt.Errorf("has the scale %g, fp8 takes at most %d", scale, largestFP8Scale)
		}
		var codes [groupInputs]byte
		copy(codes[:], from[g*groupInputs:])
		putFP8(block[g*fp8Bytes:(g+1)*fp8Bytes], r, &codes, scale)
	}
	return nil
}
