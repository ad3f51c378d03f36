//go:build !faultinject

package main

import (
	"github.com/spf13/cobra"

	"drover/internal/role"
)

// injects says that this build can inject faults.
const injects = false

// faults are none in a release: only builds with the tag faultinject can inject any.
type faults struct{}

func (faults) flag(*cobra.Command) {}

func (faults) inject(*role.ExpertNodeOptions) error { return nil }
