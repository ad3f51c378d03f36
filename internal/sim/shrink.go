package sim

import "slices"

// Shrink drops faults and then requests of a scenario, one after the other, for as long as
// what is left still fails.
func Shrink(s Scenario, fails func(Scenario) bool) Scenario {
	drop := func(n int, without func(Scenario, int) Scenario) {
		for i := n - 1; i >= 0; i-- {
			if less := without(s, i); fails(less) {
				s = less
			}
		}
	}
	drop(len(s.Faults), func(s Scenario, i int) Scenario {
		s.Faults = slices.Delete(slices.Clone(s.Faults), i, i+1)
		return s
	})
	drop(len(s.Requests), func(s Scenario, i int) Scenario {
		s.Requests = slices.Delete(slices.Clone(s.Requests), i, i+1)
		return s
	})
	return s
}
