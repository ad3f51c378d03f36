package main

import (
	"time"

	"github.com/spf13/cobra"

	"drover/internal/role"
)

// lastResortFlags adds the flags for experts that no node computes.
func lastResortFlags(c *cobra.Command, r *role.LastResort) {
	c.Flags().Int64Var(&r.Bytes, "last-resort-bytes", 1<<30, "packed weights of experts that no "+
		"node holds and that the coordinator computes itself, in bytes; 0 computes none")
	c.Flags().DurationVar(&r.Wait, "expert-wait", 30*time.Second,
		"how long a request waits for an expert that nobody computes")
}

// checkLastResort refuses what cannot be meant.
func checkLastResort(r role.LastResort) error {
	if r.Bytes < 0 {
		return usagef("--last-resort-bytes is %d, must not be negative", r.Bytes)
	}
	if r.Wait <= 0 {
		return usagef("--expert-wait is %v, must be positive", r.Wait)
	}
	return nil
}
