package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	droverv1 "drover/proto/drover/v1"
)

func newRebalanceCommand(g *globals) *cobra.Command {
	var endpoint string
	var at reach
	var asJSON bool
	c := &cobra.Command{
		Use:   "rebalance",
		Short: "Look at the load now, and place experts by it",
		Long: `Rebalance asks the coordinator that plans to look at the load of experts and nodes at once,
instead of at its next turn, and to move replicas if that makes the fullest node less full by
enough. It does not wait for that: see drover placement, whose revision then rises.
With --json: {"revision":N,"planner":ID}, the revision before any change.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: "  drover rebalance\n  drover rebalance --endpoint 127.0.0.1:7070",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conn, stop, err := dial(orDefaultEndpoint(endpoint), at)
			if err != nil {
				return err
			}
			defer stop()
			r, err := droverv1.NewClusterServiceClient(conn).Rebalance(c.Context(),
				&droverv1.RebalanceRequest{})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(g.out).Encode(struct {
					Revision uint64 `json:"revision"`
					Planner  string `json:"planner"`
				}{r.Revision, r.Planner})
			}
			planner := r.Planner
			if planner == "" {
				planner = "nobody yet: the next coordinator that is elected looks by itself"
			}
			_, err = fmt.Fprintf(g.out, "asked; placement revision %d is in force; the planner is %s\n",
				r.Revision, planner)
			return err
		},
	}
	endpointFlag(c, &endpoint)
	at.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
