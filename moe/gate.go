package moe

import (
	"drover/kernel"
	"drover/tensor"
)

// Routes says which experts each row of a layer visits.
type Routes struct {
	// K is the number of experts for each row.
	K int
	// Experts and Weights hold K entries a row, the most preferred expert first.
	Experts []int32
	Weights []float32
}

// Resize makes room for n rows of k experts.
func (r *Routes) Resize(n, k int) {
	r.K = k
	if cap(r.Experts) < n*k {
		r.Experts, r.Weights = make([]int32, n*k), make([]float32, n*k)
	}
	r.Experts, r.Weights = r.Experts[:n*k], r.Weights[:n*k]
}

// SigmoidTopK chooses for each row of logits, (rows, experts), the k experts with
// the largest logits and weighs each by the sigmoid of its logit, as Llama 4 does.
// Equal logits go to the expert with the lower number.
func SigmoidTopK(logits tensor.Rows, k int, r *Routes) {
	r.Resize(logits.N, k)
	for i := range logits.N {
		experts, weights := r.Experts[i*k:(i+1)*k], r.Weights[i*k:(i+1)*k]
		topK(logits.Row(i), experts)
		for j, e := range experts {
			weights[j] = logits.Row(i)[e]
		}
		kernel.Sigmoid(weights, weights)
	}
}

// topK fills best with the indices of the largest values, largest first, by
// insertion: k is small.
func topK(values []float32, best []int32) {
	for i := range min(len(best), len(values)) {
		insert(values, best[:i+1], int32(i))
	}
	for i := len(best); len(best) > 0 && i < len(values); i++ {
		i += kernel.FirstAbove(values[i:], values[best[len(best)-1]])
		if i < len(values) {
			insert(values, best, int32(i))
		}
	}
}

// insert puts index i into best, in place of the last, behind values that are as large.
func insert(values []float32, best []int32, i int32) {
	j := len(best) - 1
	for ; j > 0 && values[i] > values[best[j-1]]; j-- {
		best[j] = best[j-1]
	}
	best[j] = i
}
