package main

import (
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/pull"
)

// restFlags are those of roles that read experts from the model's source when they need them.
type restFlags struct {
	opts      pull.Options
	tokenFile string
}

func (f *restFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.opts.Source, "pull", "", "where experts come from that --model lacks, if "+
		"it was pulled without them: the SOURCE of drover pull (default: they are an error)")
	c.Flags().StringVar(&f.opts.Hub, "pull-hub", pull.DefaultHub,
		"with --pull, base address of the hub, for hf: sources")
	c.Flags().StringVar(&f.tokenFile, "pull-token-file", "", "with --pull, file with a token for the "+
		"source, read for each request (default for a hub: $HF_TOKEN)")
	c.Flags().BoolVar(&f.opts.Insecure, "pull-insecure", false,
		"with --pull, allow plain HTTP to other hosts")
}

// options checks the flags.
func (f *restFlags) options() (pull.Options, error) {
	if f.opts.Source == "" {
		if f.tokenFile != "" || f.opts.Insecure {
			return f.opts, usagef("--pull-token-file and --pull-insecure are for --pull SOURCE")
		}
		return f.opts, nil
	}
	err := withToken(&f.opts, f.tokenFile)
	return f.opts, err
}

// withToken has a token read from a file or, for a hub, from the environment. What cannot be
// read now is an error.
func withToken(o *pull.Options, path string) error {
	hub := strings.HasPrefix(o.Source, "hf:")
	o.Token = func() (string, error) { return readToken(path, hub) }
	_, err := o.Token()
	return err
}
