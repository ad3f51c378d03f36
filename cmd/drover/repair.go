package main

import (
	"math"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/role"
)

// usualLastResort is what a coordinator does for lost experts unless it is told otherwise.
var usualLastResort = role.LastResort{Bytes: 1 << 30, Wait: 30 * time.Second}

// repairFlags adds the flags for experts that no node computes, or one computes wrongly.
func repairFlags(c *cobra.Command, r *role.LastResort, check *float64) {
	c.Flags().Int64Var(&r.Bytes, "last-resort-bytes", usualLastResort.Bytes, "packed weights of "+
		"experts that no node holds and that the coordinator computes itself, in bytes; 0 computes none")
	c.Flags().DurationVar(&r.Wait, "expert-wait", usualLastResort.Wait,
		"how long a request waits for an expert that nobody computes")
	c.Flags().Float64Var(check, "check-fraction", 1./256, "part of the calls of nodes that another "+
		"node computes as well, to find wrong numbers; 0 checks none")
}

// checkRepair refuses what cannot be meant, and turns a check-fraction of 0 into none.
func checkRepair(r role.LastResort, check *float64) error {
	if r.Bytes < 0 {
		return usagef("--last-resort-bytes is %d, must not be negative", r.Bytes)
	}
	if r.Wait <= 0 {
		return usagef("--expert-wait is %v, must be positive", r.Wait)
	}
	if *check < 0 || *check > 1 || math.IsNaN(*check) {
		return usagef("--check-fraction is %v, must be 0 to 1", *check)
	}
	if *check == 0 {
		*check = -1 // since 0 is the default there
	}
	return nil
}
