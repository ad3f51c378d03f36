package placement

import (
	"maps"
	"math"
	"slices"
)

// evenSpeed is how far from the middle node's a measured speed may be to count as equal:
// what is measured under load varies by that much between equal machines.
const evenSpeed = 1.25

// Speeds returns the nodes' speeds relative to the middle one, from what each was measured
// to do in a second. Speeds near the middle are 1, others are rounded to a quarter of a
// power of two, so that noise moves nothing. Nodes without a measurement are absent.
func Speeds(perSecond map[string]float64) map[string]float64 {
	var all []float64
	for _, v := range perSecond {
		if v > 0 && v <= math.MaxFloat32 {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	middle := all[len(all)/2]
	if len(all)%2 == 0 {
		middle = math.Sqrt(middle * all[len(all)/2-1])
	}
	speeds := map[string]float64{}
	for id := range maps.Keys(perSecond) {
		v := perSecond[id] / middle
		switch {
		case !(v > 0 && v <= math.MaxFloat32):
		case v < evenSpeed && v > 1/evenSpeed:
			speeds[id] = 1
		default:
			speeds[id] = math.Exp2(math.Round(4*math.Log2(min(max(v, 1.0/16), 16))) / 4)
		}
	}
	return speeds
}

// Imbalance returns, for each layer, the largest ratio of a node's load to what its speed
// makes its part; 1 is even. The nodes are the plan's: speed tells theirs, 1 if absent.
func (p *Plan) Imbalance(load [][]float64, speed map[string]float64) []float64 {
	share, sum := make([]float64, len(p.NodeIDs)), 0.0
	for i, id := range p.NodeIDs {
		share[i] = 1
		if v := speed[id]; v > 0 {
			share[i] = v
		}
		sum += share[i]
	}
	ratios, on := make([]float64, len(p.Layers)), make([]float64, len(p.NodeIDs))
	for l := range p.Layers {
		clear(on)
		total := 0.0
		for e, nodes := range p.Replicas[l] {
			w := loadOf(load, l, e)
			total += w
			for _, n := range nodes {
				on[n] += w / float64(len(nodes))
			}
		}
		for n, w := range on {
			if total > 0 {
				ratios[l] = max(ratios[l], w/total*sum/share[n])
			}
		}
	}
	return ratios
}
