package coordinator

import (
	"math"
	"math/bits"
	"time"
)

// MaxMicroBatches bounds the micro-batches of a step. More than four hide no more of the
// network than four, unless it takes longer than computing and cannot be hidden at all.
const MaxMicroBatches = 4

// HidingMicroBatches is how many micro-batches hide the network: m >= 2 (1 + Tc/Tf), of
// MegaScale-Infer (arXiv 2504.02263), at most MaxMicroBatches. Tc is a one-way trip, Tf
// the longer of what the coordinator and the experts compute for one micro-batch and
// layer. Without a Tf nothing is known, and it is 1.
func HidingMicroBatches(oneWay, busy time.Duration) int {
	if busy <= 0 {
		return 1
	}
	m := math.Ceil(2 * (1 + float64(oneWay)/float64(busy)))
	return int(min(m, MaxMicroBatches))
}

// overlap decides how many micro-batches a step is cut into. It is a plain value:
// durations of steps in, numbers out.
//
// Micro-batches hide the network but read all weights once more each, so which number
// is best depends on the batch and on the machines. The decision begins with the one
// that hides the network by the formula, tries the others for a few steps, and then
// uses the fastest, trying one of the others again from time to time.
type overlap struct {
	most  int // micro-batches
	sizes [64 + 8*32]sizeClass
}

// sizeClass is what is known of steps of similar numbers of tokens.
type sizeClass struct {
	tried [MaxMicroBatches]trial // by micro-batches, less one
	best  int
	steps int
}

// trial is a moving average of step times.
type trial struct {
	mean  time.Duration
	count int
}

const (
	// trialSteps is how often a number is tried before it is judged.
	trialSteps = 4
	// retryEvery is after how many steps one of the slower numbers is judged anew.
	retryEvery = 256
	// trialWindow is over how many steps an average forgets.
	trialWindow = 16
	// advantage is how much faster another number must be to be used instead.
	advantage = 0.97
)

// classOf numbers the sizes of steps: each by itself up to 64 tokens, then eight for
// each power of two.
func classOf(tokens int) int {
	if tokens <= 64 {
		return max(tokens, 1) - 1
	}
	e := bits.Len(uint(tokens)) - 1 // at least 6
	return min(64+8*(e-6)+(tokens>>(e-3))&7, len(overlap{}.sizes)-1)
}

// choose returns the micro-batches for a step of so many tokens, where hiding is what
// the formula says.
func (o *overlap) choose(tokens, hiding int) int {
	most := min(o.most, tokens)
	if most <= 1 {
		return 1
	}
	c := &o.sizes[classOf(tokens)]
	c.steps++
	if c.best == 0 {
		c.best = min(max(hiding, 1), most)
	}
	if c.tried[c.best-1].count < trialSteps {
		return c.best
	}
	for m := 1; m <= most; m++ {
		if c.tried[m-1].count < trialSteps {
			return m
		}
	}
	if c.steps%retryEvery == 0 {
		if m := 1 + c.steps/retryEvery%most; m != c.best {
			c.tried[m-1] = trial{}
			return m
		}
	}
	return c.best
}

// observe takes in how long the model took for a step that was cut as chosen. One
// measurement counts no more than twice the average: others use the machine, too.
func (o *overlap) observe(tokens, m int, took time.Duration) {
	if m < 1 || m > o.most {
		return
	}
	c := &o.sizes[classOf(tokens)]
	t := &c.tried[m-1]
	if t.count > 0 {
		took = min(took, 2*t.mean)
	}
	t.count++
	t.mean += (took - t.mean) / time.Duration(min(t.count, trialWindow))
	for i := range c.tried {
		x := &c.tried[i]
		if x.count >= trialSteps && c.best > 0 &&
			float64(x.mean) < advantage*float64(c.tried[c.best-1].mean) {
			c.best = i + 1
		}
	}
}
