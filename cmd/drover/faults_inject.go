//go:build faultinject

package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/faultinject"
	"drover/internal/role"
)

// injects says that this build can inject faults.
const injects = true

// faults are what an expert node does wrong, for tests.
type faults struct{ text string }

func (f *faults) flag(c *cobra.Command) {
	c.Flags().StringVar(&f.text, "inject", "", "faults of this node: wrong=P,corrupt=P,refuse=P,"+
		"delay=D,slow=X,hang=N,clock=D,seed=N, or @FILE with NODE:FAULTS, which is read again and again")
}

// inject makes a node misbehave: as its flag says or, for the nodes that drover up starts,
// $DROVER_INJECT, ID:FAULTS and more of these after semicolons.
func (f *faults) inject(o *role.ExpertNodeOptions) error {
	if file, ok := strings.CutPrefix(f.text, "@"); ok {
		now := faultinject.Live(file, o.ID)
		o.Wrap, o.ServerOptions = faultinject.WrapBy(now, 0), faultinject.ServerOptionsBy(now, 0)
		return nil
	}
	text := f.text
	if more := faultinject.Of(os.Getenv("DROVER_INJECT"), o.ID); more != "" {
		text = more
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
	o.Epoch += uint64(parsed.Clock) // the only thing that a node takes from the wall clock
	return nil
}
