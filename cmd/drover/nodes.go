package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"drover/internal/show"
	droverv1 "drover/proto/drover/v1"
)

func newNodesCommand(g *globals) *cobra.Command {
	var endpoint string
	var at reach
	var asJSON bool
	c := &cobra.Command{
		Use:   "nodes",
		Short: "List the expert nodes",
		Long: `Nodes lists the expert nodes as a coordinator sees them: their id, address, process when
it runs on the coordinator's machine, state, bytes of weights, experts held, rows served and,
once that was measured, speed relative to the middle node. Below the table it says why a node
is unreachable (this coordinator has no link to it), unusable, limited or quarantined.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: "  drover nodes\n  drover nodes --json --endpoint 127.0.0.1:7070",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conn, stop, err := dial(endpoint, at)
			if err != nil {
				return err
			}
			defer stop()
			r, err := droverv1.NewClusterServiceClient(conn).ListNodes(c.Context(),
				&droverv1.ListNodesRequest{})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(g.out).Encode(show.Nodes(r))
			}
			return printNodes(g, r)
		},
	}
	endpointFlag(c, &endpoint)
	at.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printNodes(g *globals, r *droverv1.ListNodesResponse) error {
	w := tabwriter.NewWriter(g.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tADDRESS\tPID\tSTATE\tWEIGHTS\tEXPERTS\tROWS\tSPEED")
	for _, n := range r.Nodes {
		pid := "-"
		if n.Pid != 0 {
			pid = fmt.Sprint(n.Pid)
		}
		speed := "-"
		if n.Speed > 0 {
			speed = fmt.Sprintf("%.2f", n.Speed)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", n.Id, n.Address, pid, n.State,
			show.Bytes(n.Bytes), n.ReplicaCount, n.RowsDispatched, speed)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range r.Nodes {
		if n.Reason != "" {
			fmt.Fprintf(g.out, "\n%s is %s: %s\n", n.Id, n.State, n.Reason)
		}
	}
	return nil
}

func newPlacementCommand(g *globals) *cobra.Command {
	var endpoint string
	var at reach
	var asJSON bool
	c := &cobra.Command{
		Use:   "placement",
		Short: "Show which nodes hold which experts",
		Long: `Placement prints the committed placement: its revision and, for each MoE layer, the experts
of each node. Once coordinators have measured some load it also names the experts with the
most work, and how full the fullest node is. It ends with the kernel classes of the nodes: of
one class, every request gives the same bytes whichever node computes it; where an operator
lets classes be mixed, it says which experts that excludes.
With --json: {"revision":N,"layers":{"LAYER":{"EXPERT":["NODE",…]}},"load":{"LAYER":{"EXPERT":
TIMES_THE_MEAN}},"imbalance":{"LAYER":TIMES_ITS_PART},"kernel_classes":{"CLASS":["NODE",…]},
"mixed_experts":{"LAYER":[EXPERT,…]},"same_bytes":true}.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: "  drover placement\n  drover placement --json",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conn, stop, err := dial(endpoint, at)
			if err != nil {
				return err
			}
			defer stop()
			service := droverv1.NewClusterServiceClient(conn)
			r, err := service.GetPlacement(c.Context(), &droverv1.GetPlacementRequest{})
			if err != nil {
				return err
			}
			nodes, err := service.ListNodes(c.Context(), &droverv1.ListNodesRequest{})
			if err != nil {
				return err
			}
			classes := show.ClassesOf(r, nodes)
			if asJSON {
				p := show.Placement(r)
				p.Classes = classes
				return json.NewEncoder(g.out).Encode(p)
			}
			if err := show.PrintPlacement(g.out, r); err != nil {
				return err
			}
			return classes.Print(g.out)
		},
	}
	endpointFlag(c, &endpoint)
	at.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
