package verify

import (
	"math"
	"slices"

	droverv1 "drover/proto/drover/v1"
)

// logits compares one position's logits.
func (c *check) logits(where string, got, want []float32, tol tolerance) {
	if len(got) != len(want) {
		c.fail("%s: %d logits, want %d", where, len(got), len(want))
		return
	}
	for i, w := range want {
		if !c.number(float64(got[i]), float64(w), tol.logit) {
			c.fail("%s, token %d: logit %v, want %v (off by %.3g, tolerance %g)",
				where, i, got[i], w, math.Abs(float64(got[i])-float64(w)), tol.logit)
		}
	}
}

// choice is the experts of one position and layer, as recorded.
type choice struct {
	ids     []int32
	weights []float32
	logits  []float32 // of all experts; nil if not recorded
}

// experts compares the experts of one position and layer as sets, and their weights. It says
// whether they are the same. Others are a failure, unless the mode may prefer them (tie).
func (c *check) experts(
	where string, got *droverv1.LayerExperts, want choice, tol tolerance,
) (same bool) {
	if len(got.ExpertIds) != len(want.ids) || len(got.Weights) != len(want.ids) {
		c.fail("%s: %d experts with %d weights, want %d",
			where, len(got.ExpertIds), len(got.Weights), len(want.ids))
		return false
	}
	same = true
	for i, id := range got.ExpertIds {
		at := slices.Index(want.ids, int32(id))
		if at < 0 {
			same = false
			if !want.nearTie(id, got.Weights[i], tol) {
				c.fail("%s: chose experts %v, want %v", where, got.ExpertIds, want.ids)
			}
			continue
		}
		weight := float64(got.Weights[i])
		d := math.Abs(weight - float64(want.weights[at]))
		if !(d <= tol.weight) { // so that NaN fails
			c.fail("%s: expert %d has weight %v, want %v (off by %.3g, tolerance %g)",
				where, id, weight, want.weights[at], d, tol.weight)
		}
	}
	c.compared++
	return same
}

// nearTie says whether the mode may have chosen an expert instead of the last of those recorded:
// its weight is about the same, and so was its logit, where it is recorded.
func (w choice) nearTie(id uint32, weight float32, tol tolerance) bool {
	least := 0
	for i := range w.ids {
		if w.weights[i] < w.weights[least] {
			least = i
		}
	}
	d := math.Abs(float64(weight) - float64(w.weights[least]))
	if tol.tie == 0 || !(d <= tol.weight) {
		return false
	}
	if w.logits == nil {
		return true
	}
	if int(id) >= len(w.logits) {
		return false
	}
	return tol.tied(float64(w.logits[w.ids[least]]), float64(w.logits[id]))
}
