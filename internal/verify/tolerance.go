package verify

import (
	"fmt"
	"math"

	"drover/kernel"
)

// tolerance is how far a mode's numbers may be from the reference's.
type tolerance struct {
	logit  float64 // of one logit
	weight float64 // of the weight of a chosen expert
	// logprob is of the natural logarithm of a probability, or asProbability, of that itself.
	logprob       float64
	asProbability bool
	// tie is the difference of two logits below which the mode may prefer the other: the next
	// token, or an expert. What follows from such a choice is not compared. 0: never.
	tie float64
}

// comparable says whether recorded numbers are compared in a mode: if none of its roles rounds to 8
// or 4 bits.
//
// Such rounding is itself a change of the weights, as large as what the comparison is to find. In
// the fixtures, with logits of a standard deviation of 3, the largest errors measured in dense
// models are 1.0 in int8 and 9 in int4, more where another expert is chosen; leaving out a feature
// of an architecture costs 4 to 15. A bound that lets int4 pass would let that pass, too. The
// kernels of these modes are compared with plain Go, bit for bit, and what the modes cost is
// measured by package evaluate.
func comparable(m kernel.Mode) bool {
	for r := kernel.RoleExperts; r <= kernel.RoleRows; r++ {
		if m.Precision(r) > kernel.PrecisionBF16 {
			return false
		}
	}
	return true
}

// errQuantised says why a mode's numbers are not compared, and what to do.
func errQuantised(m kernel.Mode) error {
	return fmt.Errorf("mode %v rounds weights or keys and values to 8 or 4 bits: recorded numbers "+
		"are compared in modes of exact and bf16 only; drover eval --against measures what it costs", m)
}

// tolerances of a mode whose numbers are comparable.
//
// The reference computes in float32; exact differs from it only in the order of sums.
//
// bf16 rounds keys, values and the rows to and from the experts to 8 significant bits: a relative
// error of up to 2^-9 in each, three or four times a layer, so 1 to 2 % after the fixtures' four
// layers, of logits with a standard deviation of 3: 0.03 to 0.06, and four times that for the
// largest of ten thousand. Seen are 0.11 (llama3/p7) and 0.003 in a gate's weight. Leaving out any
// one feature of an architecture costs 4 to 15 (expected.json), so 0.25 still tells. In a deeper
// model a near tie of two experts moves the logits of improbable tokens by much more and the
// probabilities by little: 0.07 at most in the demo model's recordings. So those are compared.
func tolerances(m kernel.Mode) tolerance {
	if m == kernel.Exact {
		return tolerance{logit: 2e-4, weight: 1e-4, logprob: 2e-3}
	}
	return tolerance{logit: 0.25, weight: 0.01, logprob: 0.1, asProbability: true, tie: 0.05}
}

// scaled is what logprob bounds: the log-probability or the probability.
func (t tolerance) scaled(logprob float64) float64 {
	if t.asProbability {
		return math.Exp(logprob)
	}
	return logprob
}

// tied says whether the mode may prefer the other of two logits.
func (t tolerance) tied(a, b float64) bool {
	return t.tie > 0 && math.Abs(a-b) <= t.tie
}
