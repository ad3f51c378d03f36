package placement

import (
	"cmp"
	"slices"
)

// This file is the heuristic that DeepSeek published as EPLB (github.com/deepseek-ai/EPLB),
// written anew from its description, to compare with.
//
// It knows the load of each expert of a layer, and a number of slots, the same on each GPU.
// Global variant: each further replica goes to the expert with the most load for each of
// its replicas; then replicas are packed, heaviest first, on the GPU with the least load
// of those with a free slot. Hierarchical: groups of experts are packed on hosts in that
// way, as many on each; then each host replicates and packs its own experts.

// packing puts items in so many packs of equal size: heaviest first, into the lightest
// pack that is not full. It returns each item's pack.
func packing(weights []float64, packs int) []int {
	order := make([]int, len(weights))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(weights[y], weights[x]) })
	pack := make([]int, len(weights))
	load, items := make([]float64, packs), make([]int, packs)
	for _, i := range order {
		best := -1
		for p := range packs {
			if items[p] < len(weights)/packs && (best < 0 || load[p] < load[best]) {
				best = p
			}
		}
		pack[i] = best
		load[best] += weights[i]
		items[best]++
	}
	return pack
}

// replicate returns the expert of each slot, and each expert's replicas.
func replicate(weights []float64, slots int) (expert, replicas []int) {
	replicas = make([]int, len(weights))
	for e := range weights {
		expert = append(expert, e)
		replicas[e] = 1
	}
	for len(expert) < slots {
		best := 0
		for e, w := range weights {
			if w/float64(replicas[e]) > weights[best]/float64(replicas[best]) {
				best = e
			}
		}
		expert = append(expert, best)
		replicas[best]++
	}
	return expert, replicas
}

// eplb is how the heuristic is asked: hosts and groups are 1 for the global variant.
type eplb struct{ groups, hosts, gpus, slots int }

// place returns, for one layer, the experts of each GPU.
func (x eplb) place(load []float64) [][]int {
	each := len(load) / x.groups
	groupLoad := make([]float64, x.groups)
	for e, w := range load {
		groupLoad[e/each] += w
	}
	gpus := make([][]int, x.gpus)
	hostOf, perHost := packing(groupLoad, x.hosts), x.gpus/x.hosts
	for host := range x.hosts {
		var own []int
		var ownLoad []float64
		for e, w := range load {
			if hostOf[e/each] == host {
				own, ownLoad = append(own, e), append(ownLoad, w)
			}
		}
		expert, replicas := replicate(ownLoad, x.slots/x.hosts)
		weights := make([]float64, len(expert))
		for i, e := range expert {
			weights[i] = ownLoad[e] / float64(replicas[e])
		}
		for i, gpu := range packing(weights, perHost) {
			gpus[host*perHost+gpu] = append(gpus[host*perHost+gpu], own[expert[i]])
		}
	}
	return gpus
}

// ratio is the largest load of a GPU, for a layer placed like this, over the mean.
func ratio(load []float64, gpus [][]int) float64 {
	replicas, sum := make([]int, len(load)), 0.0
	for _, held := range gpus {
		for _, e := range held {
			replicas[e]++
		}
	}
	for _, w := range load {
		sum += w
	}
	worst := 0.0
	for _, held := range gpus {
		own := 0.0
		for _, e := range held {
			own += load[e] / float64(replicas[e])
		}
		worst = max(worst, own)
	}
	return worst * float64(len(gpus)) / sum
}

// bound is a ratio that no placement of a layer in so many slots on equal nodes is below:
// the mean, and the load of the heaviest replica if replicas are given where that is
// largest, which makes it as small as can be. An expert has one replica on a node at most.
func bound(load []float64, nodes, slots int) float64 {
	_, replicas := replicate(load, slots)
	worst, sum := 0.0, 0.0
	for e, w := range load {
		worst = max(worst, w/float64(min(replicas[e], nodes)))
		sum += w
	}
	return max(1, worst*float64(nodes)/sum)
}
