package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"drover/packed"
)

// newCacheCommand looks at the folder of packed weights and empties it.
func newCacheCommand(g *globals) *cobra.Command {
	var dir string
	var asJSON, clear bool
	c := &cobra.Command{
		Use:   "cache [--clear]",
		Short: "Show or clear the folder of packed weights",
		Long: `Show how much is in the folder of packed weights, or remove it.

Weights are packed once, into files that every later start only maps. A model in another
numeric mode, or whose files have changed, is packed anew; what is not used any more stays
until it is cleared. Clearing does not disturb processes that run.

With --json one document: {"dir","pieces","bytes","cleared"}.
Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: `  drover cache
  drover cache --clear
  drover cache --cache DIR --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir = cacheDir(dir)
			if dir == "" {
				return usagef("there is no folder of packed weights: name one with --cache")
			}
			u, err := packed.Inspect(dir, clear)
			switch {
			case err != nil:
				return err
			case asJSON:
				return json.NewEncoder(g.out).Encode(u)
			case clear:
				_, err = fmt.Fprintf(g.out, "%s: %d pieces of %d bytes removed\n", u.Dir, u.Pieces, u.Bytes)
			default:
				_, err = fmt.Fprintf(g.out, "%s: %d pieces of %d bytes\n", u.Dir, u.Pieces, u.Bytes)
			}
			return err
		},
	}
	cacheFlag(c, &dir, "")
	c.Flags().BoolVar(&clear, "clear", false, "remove all pieces")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
