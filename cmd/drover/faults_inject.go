//go:build faultinject

package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/faultinject"
	"drover/internal/role"
)

// faults are what an expert node does wrong, for tests.
type faults struct{ text string }

func (f *faults) flag(c *cobra.Command) {
	c.Flags().StringVar(&f.text, "inject", "",
		"faults of this node: wrong=P,corrupt=P,delay=D,slow=X,hang=N,seed=N")
}

// inject makes a node misbehave: as its flag says or, for the nodes that drover up starts,
// $DROVER_INJECT, ID:FAULTS and more of these after semicolons.
func (f *faults) inject(o *role.ExpertNodeOptions) error {
	text := f.text
	for one := range strings.SplitSeq(os.Getenv("DROVER_INJECT"), ";") {
		if id, faults, ok := strings.Cut(one, ":"); ok && id == o.ID {
			text = faults
		}
	}
	if text == "" {
		return nil
	}
	parsed, err := faultinject.Parse(text)
	if err != nil {
		return err
	}
	o.Log.Warn("this node is made to misbehave", "faults", text)
	o.Wrap, o.ServerOptions = parsed.Wrap, parsed.ServerOptions()
	return nil
}
