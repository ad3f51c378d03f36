package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/fetch"
	"drover/internal/identity"
	"drover/internal/limits"
	"drover/internal/pull"
	"drover/internal/role"
)

type expertNodeFlags struct {
	member
	listen, advertise, id, domain string
	source, modelDigest           string
	capacity, fetchRate           int64
	drainTimeout                  time.Duration
	shortLease, withParent        bool
	rest                          restFlags
	faults                        faults
}

func newExpertNodeCommand(g *globals) *cobra.Command {
	f := &expertNodeFlags{}
	c := &cobra.Command{
		Use:   "expertnode --etcd ADDR[,ADDR…] --model DIR",
		Short: "Run an expert node",
		Long: `Expertnode registers in etcd, loads the experts that the placement gives it (and reads no
others from the model's directory), and computes them for the coordinators.

On SIGTERM it drains first: other nodes load its experts, the placement is switched, the last
rows are answered, and then it ends; at the latest after --drain-timeout. A second signal, and
an interrupt (Ctrl-C), end it at once.

A node whose GPU is lost ends with exit code 1: others compute its experts, and whoever
starts it again opens the GPU anew.

Exit codes: 0 ended by an interrupt, 1 an error, 2 wrong usage.`,
		Example: `  drover expertnode --etcd 127.0.0.1:2379 --model models/tiny-maverick --id left --plaintext
  drover expertnode --etcd https://10.0.0.1:2379 --model /models/scout --listen 10.0.0.7:7071 \
    --tls /etc/drover/expertnode`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), g) },
	}
	f.member.flags(c)
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0",
		"address for rows; port 0 takes a free one")
	c.Flags().StringVar(&f.advertise, "advertise", "", "address that others use (default: "+
		"--listen's, or if that is all of this machine's, the only one that is not loopback)")
	c.Flags().StringVar(&f.id, "id", "",
		"name of this node, unique in the cluster (default: host and process)")
	c.Flags().StringVar(&f.domain, "domain", "", "failure domain (default: the host's name)")
	c.Flags().Int64Var(&f.capacity, "capacity", 0,
		"bytes of packed weights to hold (default: all experts)")
	c.Flags().StringVar(&f.source, "source", "auto", "where experts come from that --cache lacks: "+
		"peers (nodes that hold them), disk (the model's directory, and --pull for what it lacks) or "+
		"auto (peers, then disk)")
	f.rest.flags(c)
	c.Flags().StringVar(&f.modelDigest, "model-digest", "", "with --source peers, the "+
		"digest of the weights, as drover inspect tells it (default: what coordinators say)")
	c.Flags().Int64Var(&f.fetchRate, "fetch-rate", 0, "most bytes a second of weights to send to "+
		"other nodes; 0: as many as rows leave room for, -1: do not wait for rows")
	c.Flags().DurationVar(&f.drainTimeout, "drain-timeout", 25*time.Second,
		"longest time to drain on SIGTERM; 0 ends at once")
	c.Flags().BoolVar(&f.shortLease, "short-lease", false,
		"let the cluster notice this node's end in 2 s")
	_ = c.Flags().MarkHidden("short-lease") // the flag exists
	withParentFlag(c, &f.withParent)
	f.faults.flag(c)
	return c
}

// weightsFrom checks the flags about weights and says where they come from, and what the model's
// directory lacks.
func (f *expertNodeFlags) weightsFrom() (fetch.Preference, pull.Options, error) {
	from, err := fetch.ParsePreference(f.source)
	switch {
	case err != nil:
		err = usageError{fmt.Errorf("--%w", err)}
	case f.capacity < 0:
		err = usagef("--capacity is %d, must not be negative", f.capacity)
	case f.modelDigest != "" && from != fetch.Nodes:
		err = usagef("--model-digest is for --source peers: else it is computed from the weights")
	case f.rest.opts.Source != "" && from == fetch.Nodes:
		err = usagef("--pull is for --source auto or disk: peers takes experts from nodes only")
	}
	if err != nil {
		return from, pull.Options{}, err
	}
	rest, err := f.rest.options()
	return from, rest, err
}

func (f *expertNodeFlags) run(ctx context.Context, g *globals) error {
	mode, err := f.check([]string{f.listen, f.advertise}, nil)
	if err != nil {
		return err
	}
	from, rest, err := f.weightsFrom()
	if err != nil {
		return err
	}
	end := f.end(ctx, g)
	// A signal ends ctx, but not the node: it drains first.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if f.id == "" {
		f.id = processName()
	}
	if err := setProcessors(&f.compute.Threads); err != nil {
		return err
	}
	log := f.logger(g).With("node", f.id)
	if f.withParent {
		log = quiet(g, f.id)
	}
	id, closeIdentity, err := f.openIdentity(identity.ExpertNode, log)
	if err != nil {
		return err
	}
	defer closeIdentity()
	store, closeStore, err := f.openStore(id)
	if err != nil {
		return err
	}
	defer closeStore()
	o := role.ExpertNodeOptions{ModelDir: f.model, Mode: mode, Compute: f.compute,
		Weights: role.Weights{Cache: cacheDir(f.cache)},
		Store:   store, ClusterName: f.cluster,
		ID: f.id, Epoch: role.NewEpoch(), Listen: f.listen, Advertise: f.advertise,
		MemoryBytes: limits.MemoryLimit(), CapacityBytes: f.capacity,
		Domain: f.domain, ShortLease: f.shortLease,
		From: from, Rest: rest, ModelDigest: f.modelDigest, FetchBytesPerSecond: f.fetchRate,
		Identity: id, Version: version, Log: log}
	if err := f.faults.inject(&o); err != nil {
		return usageError{err}
	}
	if o.Admin, err = role.ListenAdmin(f.admin, f.tokenFile, id); err != nil {
		return err
	}
	if o.Gossip, err = f.openGossip(func(s role.GossipSecret, others []string) (role.Gossip, error) {
		return role.NodeGossip(f.id, o.Epoch, f.gossip, s, o.Log, others...)
	}); err != nil {
		return err
	}
	n, err := startUntil(ctx, cancel, o, end)
	if n == nil {
		return err
	}
	defer n.Close()
	o.Log.Info("serving rows", "address", n.Address, "pid", os.Getpid())
	select {
	case <-n.Lost():
		return n.Err()
	case s := <-end:
		if s == syscall.SIGTERM && f.drainTimeout > 0 {
			f.drain(ctx, n, end)
		}
	}
	return nil
}

// drain empties the node for as long as it may take, and until it is to end at once.
func (f *expertNodeFlags) drain(ctx context.Context, n *role.ExpertNode, end <-chan os.Signal) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.drainTimeout,
		fmt.Errorf("--drain-timeout of %v is over", f.drainTimeout))
	defer cancel()
	go func() {
		<-end
		cancel()
	}()
	n.Drain(ctx)
}

// startUntil starts a node, unless that is told to end meanwhile: then it cancels ctx and there
// is none. The start may wait long for the cluster to say which weights it serves.
func startUntil(ctx context.Context, cancel func(), o role.ExpertNodeOptions,
	end <-chan os.Signal) (*role.ExpertNode, error) {
	type result struct {
		node *role.ExpertNode
		err  error
	}
	started := make(chan result, 1)
	go func() {
		n, err := role.StartExpertNode(ctx, o)
		started <- result{n, err}
	}()
	select {
	case r := <-started:
		return r.node, r.err
	case <-end:
		cancel()
		if r := <-started; r.err == nil {
			r.node.Close()
		}
		return nil, nil
	}
}

// withParentFlag adds the hidden flag with which a program starts its children.
func withParentFlag(c *cobra.Command, to *bool) {
	c.Flags().BoolVar(to, "with-parent", false, "end when standard input ends")
	_ = c.Flags().MarkHidden("with-parent") // the flag exists
}

// withParent is ctx until standard input ends, as it does when the parent does.
func withParent(ctx context.Context, g *globals) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, g.in)
		cancel()
	}()
	return ctx, cancel
}

// end returns a channel of what ends the node: signals, and as interrupts the end of ctx
// and, if that was asked for, of the parent.
func (f *expertNodeFlags) end(ctx context.Context, g *globals) <-chan os.Signal {
	end := make(chan os.Signal, 4)
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signals = append(signals, syscall.SIGHUP)
	}
	signal.Notify(end, signals...)
	context.AfterFunc(ctx, func() {
		// A signal ends ctx with a cause of its own, and comes by itself as well.
		if context.Cause(ctx) == context.Canceled {
			end <- os.Interrupt
		}
	})
	if f.withParent {
		go func() {
			_, _ = io.Copy(io.Discard, g.in) // it ends when the parent does
			end <- os.Interrupt
		}()
	}
	return end
}
