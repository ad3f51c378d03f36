package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"drover/kernel"
)

// version is the release; the build may set it with -ldflags -X.
var version = "0.1.0-dev"

func newVersionCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: "Version prints the version, the commit, the Go and platform that built it, and\n" +
			"the vector instructions that it computes with here (go: none).\n\n" +
			"Exit codes: 0 done, 2 wrong usage.",
		Example: "  drover version --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if !asJSON {
				_, err := io.WriteString(g.out, versionLine())
				return err
			}
			return json.NewEncoder(g.out).Encode(struct {
				Version       string   `json:"version"`
				Commit        string   `json:"commit"`
				Go            string   `json:"go"`
				Platform      string   `json:"platform"`
				Instructions  string   `json:"instructions"`
				KernelClasses []string `json:"kernel_classes"`
			}{version, commit(), runtime.Version(), platform(), kernel.Instructions(),
				[]string{kernel.Class(kernel.Exact), kernel.Class(kernel.BF16),
					kernel.Class(kernel.Int8), kernel.Class(kernel.Int4), kernel.Class(kernel.FP8)}})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// versionLine is the version for people.
func versionLine() string {
	return fmt.Sprintf("drover %s (%s, %s, %s, %s)\n", version, commit(), runtime.Version(),
		platform(), kernel.Instructions())
}

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// commit is the revision that the binary was built from, if the build knew it.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown commit"
	}
	revision, modified := "unknown commit", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+changes"
		}
	}
	return revision + modified
}
