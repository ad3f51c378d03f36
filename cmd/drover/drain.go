package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

type drainFlags struct {
	endpoint string
	at       reach
	undo     bool
	timeout  time.Duration
}

func newDrainCommand(g *globals) *cobra.Command {
	f := &drainFlags{}
	c := &cobra.Command{
		Use:   "drain NODE",
		Short: "Empty an expert node",
		Long: `Drain moves a node's experts to the other nodes and waits until the node holds none: others
load them, then the placement is switched, so that no request notices. The node gets no new
ones, also if its process is started again, until the drain is taken back with --undo. An empty
node can be stopped at any time. Where the others lack the room nothing changes, and the error
says how much is missing.

(SIGTERM drains an expert node, too, which then ends.)

Exit codes: 0 the node is empty, or the drain is taken back; 1 an error, or not empty within
--drain-timeout (it goes on); 2 wrong usage; 130 interrupted (it goes on).`,
		Example: "  drover drain node-2\n  drover drain --undo node-2",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("one node, please: its id as `drover nodes` shows it")
			}
			return f.run(c.Context(), g, args[0])
		},
	}
	endpointFlag(c, &f.endpoint)
	f.at.flags(c)
	c.Flags().BoolVar(&f.undo, "undo", false, "take a drain back: the node gets its share again")
	c.Flags().DurationVar(&f.timeout, "drain-timeout", 10*time.Minute,
		"longest time to wait until the node is empty")
	return c
}

// drainPoll is how often the command looks how far a drain is.
const drainPoll = 100 * time.Millisecond

func (f *drainFlags) run(ctx context.Context, g *globals, id string) error {
	if f.timeout <= 0 {
		return usagef("--drain-timeout is %v, must be more than 0", f.timeout)
	}
	conn, stop, err := dial(orDefaultEndpoint(f.endpoint), f.at)
	if err != nil {
		return err
	}
	defer stop()
	c := droverv1.NewClusterServiceClient(conn)
	r, err := c.DrainNode(ctx, &droverv1.DrainNodeRequest{NodeId: id, Undo: f.undo})
	if err != nil {
		return err
	}
	if f.undo {
		fmt.Fprintf(g.out, "%s gets its share again\n", id)
		return nil
	}
	return f.wait(ctx, g, c, drained{id, r.ReplicaCount})
}

// drained is a node on its way, and how many experts it still holds.
type drained struct {
	id       string
	replicas uint32
}

// wait shows how far the drain is until the node is empty.
func (f *drainFlags) wait(ctx context.Context, g *globals, c droverv1.ClusterServiceClient,
	d drained) error {
	began := time.Now()
	fmt.Fprintf(g.out, "%s holds %d experts\n", d.id, d.replicas)
	for {
		r, err := c.ListNodes(ctx, &droverv1.ListNodesRequest{})
		if err != nil && status.Code(err) != codes.Unavailable {
			return err
		}
		here := err != nil // a coordinator that is away proves nothing
		for _, n := range r.GetNodes() {
			if n.Id != d.id {
				continue
			}
			here = n.State != "gone" || n.ReplicaCount > 0
			if n.State == "drained" {
				fmt.Fprintf(g.out, "%s is empty after %v\n", d.id,
					time.Since(began).Round(time.Millisecond))
				return nil
			}
			if n.ReplicaCount != d.replicas {
				d.replicas = n.ReplicaCount
				fmt.Fprintf(g.out, "%s holds %d experts\n", d.id, d.replicas)
			}
		}
		switch {
		case !here:
			fmt.Fprintf(g.out, "%s has left\n", d.id)
			return nil
		case time.Since(began) > f.timeout:
			return fmt.Errorf("%s still holds %d experts after %v; the drain goes on, --undo takes it"+
				" back, and the coordinator's log says why", d.id, d.replicas, f.timeout)
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
