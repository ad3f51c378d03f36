package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"drover/internal/localcluster"
	"drover/internal/role"
	"drover/kernel"
)

type upFlags struct {
	options localcluster.Options
	mode    string
	asJSON  bool
	// withParent ends the cluster when standard input ends.
	withParent bool
}

func newUpCommand(g *globals) *cobra.Command {
	f := &upFlags{}
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a whole cluster on this machine",
		Long: `Up starts an embedded etcd, a coordinator and expert-node processes that share the
model's experts, asks the model one question, and serves until it is interrupted. Without
flags it takes the bundled demo model and free loopback ports where the usual ones
(gRPC ` + defaultEndpoint + `, HTTP 127.0.0.1:8080) are taken. It leaves no process behind,
and no file but the packed weights of --cache; with --dir the state stays there.

All hops between its processes are mutual TLS 1.3, by an authority and certificates that it
makes in the state folder; gossip is encrypted, and clients are served by TLS. The other
commands of the same user find the authority by the coordinator's address, in
drover/clusters of the user's configuration folder; other clients are told its file.

With --json it prints one line when it is ready,
{"grpc":ADDR,"http":ADDR,"admin":ADDR,"etcd":URL,"ca":FILE,"nodes":N,"pid":PID,"coordinators":
[{"grpc":ADDR,"http":ADDR,"admin":ADDR},…],"node_admins":{ID:ADDR,…}}, and then logs to
standard error.

Exit codes: 0 ended by an interrupt after it was ready, 1 an error, 2 wrong usage,
130 interrupted before it was ready.`,
		Example: `  drover up
  drover up --coordinators 3
  drover up --nodes 8 --replicas 2
  drover up --model ~/models/my-llama4 --mode exact --dir ./state`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), g) },
	}
	o := &f.options
	c.Flags().StringVar(&o.ModelDir, "model", "", "model directory (default: the bundled demo model)")
	c.Flags().IntVar(&o.Nodes, "nodes", 4, "expert-node processes, 1 to 64")
	c.Flags().IntVar(&o.Coordinators, "coordinators", 1, "coordinators that share the nodes, 1 to "+
		"16; several are processes of their own")
	c.Flags().IntVar(&o.Replicas, "replicas", 1, "copies of each expert, on nodes of their own")
	c.Flags().DurationVar(&o.RestartAfter, "restart-after", 0, "wait before a process that "+
		"ended is started again (default 100ms, doubling up to 5s)")
	c.Flags().StringVar(&o.StateDir, "dir", "",
		"folder for etcd's state and the certificates (default: a temporary one)")
	c.Flags().BoolVar(&o.Plaintext, "plaintext", false,
		"no TLS: all hops, and those of clients, are plain text")
	c.Flags().StringVar(&o.GRPC, "grpc", "",
		"gRPC address (default "+defaultEndpoint+" or a free port)")
	c.Flags().StringVar(&o.HTTP, "http", "",
		"HTTP address (default 127.0.0.1:8080 or a free port)")
	c.Flags().StringVar(&f.mode, "mode", "bf16", modeHelp)
	c.Flags().IntVar(&o.Threads, "threads", 0, "threads that compute in each process "+
		"(default: as many as processors may be used, shared by the nodes)")
	c.Flags().StringVar(&o.Device, "device", "cpu", "what computes in each process: cpu, cuda:N, "+
		"cuda-tensor:N or auto, GPUs in turn")
	cacheFlag(c, &o.Cache, "")
	repairFlags(c, &o.LastResort, &o.CheckFraction)
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one line of JSON when ready, then log")
	withParentFlag(c, &f.withParent)
	return c
}

func (f *upFlags) run(ctx context.Context, g *globals) error {
	o := &f.options
	if err := f.check(); err != nil {
		return err
	}
	level := slog.LevelWarn
	if f.asJSON {
		level = slog.LevelInfo
	}
	o.Stderr, o.Version, o.KnownDir = g.err, version, knownDir()
	o.Log = slog.New(slog.NewTextHandler(g.err, &slog.HandlerOptions{Level: level}))
	if err := f.share(); err != nil {
		return err
	}
	if f.withParent {
		var cancel context.CancelFunc
		ctx, cancel = withParent(ctx, g)
		defer cancel()
	}
	// Readers of the output may leave (drover up | head): that must not end this process
	// before it has tidied up.
	signal.Ignore(syscall.SIGPIPE)
	c, err := localcluster.Start(ctx, *o)
	if err != nil {
		return err
	}
	defer c.Close()
	if f.asJSON {
		err = f.printReady(g.out, c)
	} else {
		err = localcluster.Introduce(ctx, g.out, c)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// check completes the options and refuses what cannot be meant.
func (f *upFlags) check() (err error) {
	o := &f.options
	if o.Nodes < 1 || o.Nodes > 64 {
		return usagef("--nodes is %d, must be 1 to 64", o.Nodes)
	}
	if o.Replicas < 1 || o.Replicas > o.Nodes {
		return usagef("--replicas is %d, must be 1 to the number of nodes (%d)", o.Replicas, o.Nodes)
	}
	if o.RestartAfter < 0 {
		return usagef("--restart-after is %v, must not be negative", o.RestartAfter)
	}
	if o.Coordinators < 1 || o.Coordinators > 16 {
		return usagef("--coordinators is %d, must be 1 to 16", o.Coordinators)
	}
	if err := checkRepair(o.LastResort, &o.CheckFraction); err != nil {
		return err
	}
	if _, err := role.ParseDevice(o.Device); err != nil {
		return usagef("--device: %w", err)
	}
	for _, address := range []string{o.GRPC, o.HTTP} {
		if address == "" {
			continue
		}
		if err := mustBeLoopback(address, "drover up serves anybody who reaches it"); err != nil {
			return err
		}
	}
	if o.Mode, err = kernel.ParseMode(f.mode); err != nil {
		return usageError{err}
	}
	o.Cache = cacheDir(o.Cache)
	if o.ModelDir == "" {
		o.ModelDir, err = role.DemoModel()
	}
	return err
}

// share gives each process its threads. Unless the flag says otherwise, the nodes share the
// processors, as they compute at the same time whenever several sequences are decoded; the
// coordinator has all, as it computes mostly while nodes wait. With four nodes and the
// demo model on two processors that others used as well, decode with one thread each, two
// each, and this differed less than runs of the same.
func (f *upFlags) share() error {
	o := &f.options
	asked := o.Threads
	if err := setProcessors(&o.Threads); err != nil {
		return err
	}
	o.NodeThreads = o.Threads
	if asked == 0 {
		o.NodeThreads = (o.Threads + o.Nodes - 1) / o.Nodes
	}
	return nil
}

func (f *upFlags) printReady(w io.Writer, c *localcluster.Cluster) error {
	return json.NewEncoder(w).Encode(struct {
		GRPC  string `json:"grpc"`
		HTTP  string `json:"http"`
		Admin string `json:"admin"`
		Etcd  string `json:"etcd"`
		CA    string `json:"ca"`
		Nodes int    `json:"nodes"`
		PID   int    `json:"pid"`

		Coordinators []localcluster.Endpoint `json:"coordinators"`
		NodeAdmins   map[string]string       `json:"node_admins"`
	}{c.GRPC, c.HTTP, c.Admin, c.Etcd, c.Authority, c.Nodes, os.Getpid(), c.Coordinators,
		c.NodeAdmins})
}
