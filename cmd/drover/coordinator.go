package main

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/spf13/cobra"

	"drover/coordinator"
	"drover/internal/identity"
	"drover/internal/role"
	"drover/kernel"
	"drover/kernel/cuda"
)

type coordinatorFlags struct {
	member
	clients    clientPort
	grpc, http string
	replicas   int
	minNodes   int
	parts      int
	spare      float64
	lastResort role.LastResort
	rest       restFlags
	allowScore bool
	// expertDevice is the kind of devices that compute the experts.
	expertDevice string

	shortLease, withParent bool
	checkFraction          float64
}

func newCoordinatorCommand(g *globals) *cobra.Command {
	f := &coordinatorFlags{}
	c := &cobra.Command{
		Use:   "coordinator --etcd ADDR[,ADDR…] --model DIR",
		Short: "Run a coordinator",
		Long: `Coordinator serves a model: attention, KV cache and gate run here, the experts on the
expert nodes that have registered in etcd. It waits for them, and is ready when a token
has passed through every layer.

Exit codes: 0 ended by an interrupt, 1 an error, 2 wrong usage, 130 interrupted before it
was ready.`,
		Example: `  drover coordinator --etcd https://10.0.0.1:2379 --model models/tiny-maverick --min-nodes 2 \
    --grpc 10.0.0.1:7070 --tls /etc/drover/coordinator
  drover coordinator --etcd 127.0.0.1:2379 --model models/tiny-maverick --plaintext`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), g) },
	}
	f.member.flags(c)
	f.clients.flags(c)
	c.Flags().StringVar(&f.grpc, "grpc", defaultEndpoint, "gRPC address to serve")
	c.Flags().StringVar(&f.http, "http", "127.0.0.1:8080",
		"HTTP address to serve; none serves no HTTP")
	c.Flags().IntVar(&f.replicas, "replicas", 1, "copies of each expert, on nodes of their own")
	c.Flags().IntVar(&f.minNodes, "min-nodes", 1, "expert nodes that the first placement waits for")
	c.Flags().IntVar(&f.parts, "micro-batches", coordinator.MaxMicroBatches,
		"most parts of a step that compute and travel by turns, to hide the network; how many "+
			"is measured; 1 turns it off")
	c.Flags().Float64Var(&f.spare, "spare", 0.125, "extra replicas of hot experts, at most this "+
		"fraction of all, as far as the nodes' capacity goes")
	c.Flags().StringVar(&f.expertDevice, "expert-device", "", "kind of devices that compute the "+
		"experts: cpu, cuda, cuda-tensor, or any, which lets them be mixed (default: as this "+
		"coordinator's)")
	repairFlags(c, &f.lastResort, &f.checkFraction)
	f.rest.flags(c)
	c.Flags().BoolVar(&f.allowScore, "allow-score", false,
		"serve the Score call, which shows all logits (for drover verify)")
	c.Flags().BoolVar(&f.shortLease, "short-lease", false,
		"let the cluster notice a node's end in 2 s")
	_ = c.Flags().MarkHidden("short-lease") // the flag exists
	withParentFlag(c, &f.withParent)
	return c
}

func (f *coordinatorFlags) run(ctx context.Context, g *globals) error {
	o, err := f.options(g)
	if err != nil {
		return err
	}
	if f.withParent {
		var cancel context.CancelFunc
		ctx, cancel = withParent(ctx, g)
		defer cancel()
	}
	id, closeIdentity, err := f.openIdentity(identity.Coordinator, o.Log)
	if err != nil {
		return err
	}
	defer closeIdentity()
	o.Identity = id
	closeClients, err := f.clients.open(&o, f.tls)
	if err != nil {
		return err
	}
	defer closeClients()
	store, closeStore, err := f.openStore(id)
	if err != nil {
		return err
	}
	defer closeStore()
	o.Store = store
	if o.GRPC, err = net.Listen("tcp", f.grpc); err != nil {
		return fmt.Errorf("serve gRPC: %w", err)
	}
	if f.http != "none" {
		if o.HTTP, err = net.Listen("tcp", f.http); err != nil {
			return fmt.Errorf("serve HTTP: %w", err)
		}
	}
	if o.Admin, err = role.ListenAdmin(f.admin, f.tokenFile, id); err != nil {
		return err
	}
	if o.Gossip, err = f.openGossip(func(s role.GossipSecret, others []string) (role.Gossip, error) {
		return role.ListenGossip("coordinator-"+processName(), f.gossip, s, o.Log, others...)
	}); err != nil {
		return err
	}
	c, err := role.StartCoordinator(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	o.Log.Info("waiting for the expert nodes", "grpc", o.GRPC.Addr().String())
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	addresses := []any{"grpc", o.GRPC.Addr().String()}
	if o.HTTP != nil {
		addresses = append(addresses, "http", o.HTTP.Addr().String())
	}
	o.Log.Info("ready", addresses...)
	select {
	case <-c.Lost():
		return c.Err()
	case <-ctx.Done():
		return nil
	}
}

// options checks the flags and makes the role's options of them, all but what is opened.
func (f *coordinatorFlags) options(g *globals) (role.CoordinatorOptions, error) {
	served := []string{f.grpc, f.http}
	if f.clients.dir(f.tls) != "" {
		served = nil // clients are served by TLS
	}
	if f.clients.anybody {
		for _, a := range []string{f.grpc, f.http} {
			if a == "none" {
				continue
			}
			if err := mustBeLoopback(a, "--any-client would serve everybody"); err != nil {
				return role.CoordinatorOptions{}, err
			}
		}
	}
	mode, err := f.check(nil, served)
	if err != nil {
		return role.CoordinatorOptions{}, err
	}
	switch {
	case f.replicas < 1 || f.minNodes < 1:
		err = usagef("--replicas and --min-nodes must be at least 1")
	case f.parts < 1 || f.parts > coordinator.MaxMicroBatches:
		err = usagef("--micro-batches is %d, must be 1 to %d", f.parts, coordinator.MaxMicroBatches)
	case !slices.Contains([]string{"", "cpu", cuda.Kind, cuda.TensorKind, role.AnyDevice},
		f.expertDevice):
		err = usagef("--expert-device is %q, must be cpu, cuda, cuda-tensor or any", f.expertDevice)
	case !(f.spare >= 0 && f.spare <= 64):
		err = usagef("--spare is %v, must be 0 to 64", f.spare)
	default:
		if err = checkRepair(f.lastResort, &f.checkFraction); err == nil {
			err = setProcessors(&f.compute.Threads)
		}
		if err == nil {
			f.lastResort.Rest, err = f.rest.options()
		}
	}
	if err != nil {
		return role.CoordinatorOptions{}, err
	}
	o := role.CoordinatorOptions{ModelDir: f.model, Mode: mode, Compute: f.compute,
		Weights:     role.Weights{Cache: cacheDir(f.cache)},
		ClusterName: f.cluster, Replicas: f.replicas, MinNodes: f.minNodes, Spare: f.spare,
		MicroBatches: f.parts, LastResort: f.lastResort, CheckFraction: f.checkFraction,
		ExpertDevice: f.expertDevice, AllowScore: f.allowScore, ShortLease: f.shortLease,
		Version: version, Log: f.logger(g)}
	if f.spare == 0 {
		o.Spare = -1 // zero means the default
	}
	if f.withParent {
		o.Log = warnings(g).With("coordinator", f.grpc)
	}
	return o, nil
}

func modeFlag(c *cobra.Command, mode *string) {
	c.Flags().StringVar(mode, "mode", kernel.BF16.String(), modeHelp)
}
