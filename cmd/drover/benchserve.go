package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"drover/internal/bench"
	"drover/internal/load"
	droverv1 "drover/proto/drover/v1"
)

// serveBenchFlags is one command line of drover bench serve.
type serveBenchFlags struct {
	opts           bench.ServeOptions
	endpoint       string
	at             reach
	cluster        spawnFlags
	prompts, trace string
	asJSON         bool
}

func newBenchServeCommand(g *globals) *cobra.Command {
	f := &serveBenchFlags{cluster: spawnFlags{nodes: 4, replicas: 1}}
	c := &cobra.Command{
		Use:   "serve [--endpoint ADDR | --nodes N] --rate R",
		Short: "Measure what clients of a coordinator see under load",
		Long: `Bench serve sends requests to a coordinator at given rates, and measures what its clients
see. It is an open loop: requests arrive at random (a Poisson process of --seed) or at the
times of a trace, however many are unanswered, and their times count from their arrival. So a
coordinator that stalls is charged for all who would have asked meanwhile. With --model,
--nodes or --replicas it measures a cluster that it starts as drover up does, and ends: by TLS
on all hops, or with --plaintext in plain text.

TTFT is from a request's arrival to its first token, TPOT the mean time of each token after
the first, ITL each gap between two; tokens that come in one message have no gap. Quantiles are
within 0.5 %, the largest is exact. Goodput counts the requests each second that were within
--ttft and --tpot. "sent late" is the fault of this program or its machine: how long after their
arrival requests were sent.

Questions are asked in turn, each greedily or with a seed, so that there is one answer to
each: a hash over all answers is printed, for comparing runs. Answers that differ within a run
are counted.

With --json one document: {"model","mode","where","seed","questions","runs":[{"rate","requests",
"answered","dropped","errors":{CODE:N},"seconds","tokens","tokens_per_second",
"requests_per_second","ttft_ms":{"count","mean","p50","p90","p99","max"},"tpot_ms":{…},
"itl_ms":{…},"late_ms":{…},"goodput"}],"answers","questions_answered","differing"}.

Exit codes: 0 measured, 1 an error, no answer at all or answers that differ, 2 wrong usage,
130 interrupted.`,
		Example: `  drover bench serve --rate 2,8 --duration 1m
  drover bench serve --nodes 4 --replicas 2 --rate 5 --requests 200 --ttft 500ms --tpot 50ms
  drover bench serve --trace arrivals.txt --prompts questions.jsonl --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c, g) },
	}
	endpointFlag(c, &f.endpoint)
	f.at.flags(c)
	f.cluster.flags(c, "for a cluster of its own: ")
	o := &f.opts
	c.Flags().Float64SliceVar(&o.Rates, "rate", nil, "requests each second, or several such rates")
	c.Flags().StringVar(&f.trace, "trace", "",
		"file of arrivals in the place of --rate: seconds from the start, ascending, one a line")
	c.Flags().DurationVar(&o.Duration, "duration", 0,
		"time for which requests arrive (default 30s, or to the end of the trace or of --requests)")
	c.Flags().IntVar(&o.Requests, "requests", 0, "most requests for each rate")
	c.Flags().IntVar(&o.MaxInflight, "max-inflight", 1024,
		"most unanswered requests, 1 to 65536; what arrives beyond is dropped and counted")
	c.Flags().DurationVar(&o.Timeout, "timeout", 0, "most time for one request (default 2m)")
	c.Flags().StringVar(&f.prompts, "prompts", "",
		"file of questions as for drover run --prompts (default: a built-in mix)")
	c.Flags().Uint64Var(&o.Seed, "seed", 0, "seed of the arrivals")
	c.Flags().DurationVar(&o.TTFT, "ttft", 0, "target of goodput: time to the first token")
	c.Flags().DurationVar(&o.TPOT, "tpot", 0, "target of goodput: time for each token after it")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return c
}

func (f *serveBenchFlags) run(c *cobra.Command, g *globals) error {
	if err := f.check(c); err != nil {
		return err
	}
	endpoint, at, stop, err := f.target(c.Context(), c)
	if err != nil {
		return err
	}
	defer stop()
	conn, stopConn, err := dial(endpoint, at)
	if err != nil {
		return err
	}
	defer stopConn()
	var clear func()
	f.opts.Progress, clear = progress(g, "requests")
	rep, err := bench.Serve(c.Context(), droverv1.NewCoordinatorServiceClient(conn), f.opts)
	clear()
	if err != nil {
		return err
	}
	err = printReport(g, rep, f.asJSON)
	switch {
	case err != nil:
		return err
	case rep.Answered == 0:
		return fmt.Errorf("no request was answered at %s", rep.Where)
	case rep.Differing > 0:
		return fmt.Errorf("%d answers differ from the first one to the same question", rep.Differing)
	}
	return nil
}

// check reads the files that flags name and refuses what cannot be meant.
func (f *serveBenchFlags) check(c *cobra.Command) (err error) {
	o := &f.opts
	switch {
	case (len(o.Rates) == 0) == (f.trace == ""):
		return usagef("give --rate or --trace, one of them")
	case o.Requests < 0 || o.Duration < 0 || o.Timeout < 0 || o.TTFT < 0 || o.TPOT < 0:
		return usagef("a number of requests or a time is negative")
	case o.MaxInflight < 1 || o.MaxInflight > 1<<16:
		return usagef("--max-inflight is %d, must be 1 to 65536", o.MaxInflight)
	case f.ownCluster(c) && f.at != reach{plain: f.at.plain}:
		return usagef("--ca, --tls and --api-key-file are for an endpoint, not for a cluster of its own")
	case f.endpoint != "" && f.ownCluster(c):
		return usagef("--model, --nodes, --replicas, --mode, --threads and --cache are for a cluster " +
			"of its own; an endpoint has its own")
	}
	for _, rate := range o.Rates {
		if !(rate > 0 && rate <= 1e5) {
			return usagef("--rate %v: must be over 0 and at most 100000 requests each second", rate)
		}
	}
	if f.prompts != "" {
		if o.Questions, err = load.ReadQuestions(f.prompts); err != nil {
			return err
		}
	}
	if f.trace == "" {
		return nil
	}
	file, err := os.Open(f.trace)
	if err != nil {
		return err
	}
	defer file.Close()
	if o.Trace, err = load.ReadTrace(file); err == nil && len(o.Trace) == 0 {
		err = fmt.Errorf("no arrivals in it")
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.trace, err)
	}
	return nil
}

// ownCluster says whether a flag was given that describes a cluster to start.
func (f *serveBenchFlags) ownCluster(c *cobra.Command) bool {
	for _, name := range []string{"model", "nodes", "replicas", "mode", "threads", "cache"} {
		if c.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// target is the coordinator to measure, of a running cluster or of one that is started.
func (f *serveBenchFlags) target(ctx context.Context, c *cobra.Command) (
	endpoint string, at reach, stop func(), err error) {
	if !f.ownCluster(c) {
		endpoint = orDefaultEndpoint(f.endpoint)
		f.opts.Where = "through " + endpoint
		return endpoint, f.at, func() {}, nil
	}
	f.cluster.plain = f.at.plain
	cluster, err := f.cluster.start(ctx, nil)
	if err != nil {
		return "", at, nil, err
	}
	f.opts.Where = fmt.Sprintf("on %d nodes of this machine, %d replicas of each expert",
		f.cluster.nodes, f.cluster.replicas)
	return cluster.GRPC, reachOf(cluster), cluster.Close, nil
}
