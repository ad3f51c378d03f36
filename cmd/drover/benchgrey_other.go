//go:build !linux

package main

import "github.com/spf13/cobra"

// trialCommands are none: they need network namespaces.
func trialCommands(*globals) []*cobra.Command { return nil }
