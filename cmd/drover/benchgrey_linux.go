package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/role"
	"drover/internal/trial"
)

// trialCommands measure faults on real machines' networks, which only Linux lets a process make.
func trialCommands(g *globals) []*cobra.Command {
	return []*cobra.Command{newBenchGreyCommand(g), newBenchElasticCommand(g)}
}

// trialFlags is one command line of drover bench grey or elastic.
type trialFlags struct {
	opts               trial.Options
	cache, log, report string
	asJSON             bool
}

func (f *trialFlags) flags(c *cobra.Command) {
	o := &f.opts
	c.Flags().StringVar(&o.ModelDir, "model", "", "model directory (default: the bundled demo model)")
	cacheFlag(c, &f.cache, "")
	c.Flags().IntVar(&o.Replicas, "replicas", 2, "copies of each expert, 1 to 4")
	c.Flags().IntVar(&o.Clients, "clients", 4, "clients that ask at once, 1 to 1024")
	c.Flags().DurationVar(&o.Window, "window", 0, "time of each window (default 5s)")
	c.Flags().StringVar(&f.log, "log", "", "file for the cluster's log")
	c.Flags().StringVar(&f.report, "report", "", "file for the JSON, beside what is printed")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
}

// trialReport is what a trial found.
type trialReport interface{ Text() string }

// run makes a trial in a network namespace of its own and prints what it found.
func (f *trialFlags) run(ctx context.Context, g *globals,
	try func(context.Context, trial.Options) (trialReport, []string, error)) error {
	o := &f.opts
	if o.Rounds < 1 || o.Rounds > 100 || o.Clients < 1 || o.Replicas < 1 || o.Replicas > 4 {
		return usagef("--rounds must be 1 to 100, --clients at least 1, --replicas 1 to 4")
	}
	again, code, err := trial.Apart()
	if err != nil || again {
		if err == nil && code != exitDone {
			err = errSilent // it has said why
		}
		return err
	}
	o.Cache, o.Injects = cacheDir(f.cache), injects
	if o.ModelDir == "" {
		if o.ModelDir, err = role.DemoModel(); err != nil {
			return err
		}
	}
	if f.log != "" {
		file, err := os.Create(f.log)
		if err != nil {
			return err
		}
		defer file.Close()
		o.Log = file
	}
	o.Progress = func(what string) { fmt.Fprintln(g.err, what) }
	rep, violations, err := try(ctx, *o)
	if err != nil {
		return err
	}
	if f.report != "" {
		text, err := json.Marshal(rep)
		if err == nil {
			err = os.WriteFile(f.report, append(text, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := printReport(g, rep, f.asJSON); err != nil {
		return err
	}
	if len(violations) > 0 {
		return errors.New(strings.Join(violations, "; "))
	}
	return nil
}

func newBenchGreyCommand(g *globals) *cobra.Command {
	f := &trialFlags{}
	c := &cobra.Command{
		Use:   "grey",
		Short: "Measure what half-broken nodes and links do to the times of tokens",
		Long: `Bench grey starts four expert nodes, each in a network namespace of its own, asks questions
all the time, and makes one node or its link half-broken, again and again: windows with a fault
take turns with quiet ones, and each is compared with the quiet ones beside it. It needs root.
A fault that cannot be made here is left out and named: some need nft, tc or strace, slow needs
a build with -tags faultinject.

Faults: slow, throttled, stopped, delay, loss, narrow, half-open, black-hole, fetch (a node that
sends weights all the time), slow-disk (of etcd).

With --json one document: {"nodes","replicas","clients","window_seconds","faults":[{"fault",
"what","tokens","quiet_itl_p99_ms":{"median","min","max"},"itl_p99_ms":{…},"ratio":{…},
"ratio_goal","largest_gap_ms":{…},"extra_dispatches":{…},"fetched_mb_per_second":{…}}],
"left_out","requests","failed","differing","failures","violations"}.

Exit codes: 0 no request failed and no answer differed, 1 one did, or an error, 2 wrong usage,
130 interrupted. Times are reported, not judged.`,
		Example: "  drover bench grey\n" +
			"  drover bench grey --fault slow,throttled --rounds 5 --window 10s",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.run(c.Context(), g, func(ctx context.Context, o trial.Options) (
				trialReport, []string, error) {
				r, err := trial.Grey(ctx, o)
				return r, r.Violations, err
			})
		},
	}
	f.flags(c)
	c.Flags().StringSliceVar(&f.opts.Faults, "fault", nil, "faults to make (default: all)")
	c.Flags().IntVar(&f.opts.Rounds, "rounds", 3, "windows with each fault, 1 to 100")
	return c
}

func newBenchElasticCommand(g *globals) *cobra.Command {
	f := &trialFlags{}
	c := &cobra.Command{
		Use:   "elastic",
		Short: "Measure what nodes that come and go do to the times of tokens",
		Long: `Bench elastic starts two expert nodes, asks questions all the time, and changes the cluster
between quiet windows: to 6 nodes, 3 and 5, a drain and its end, a restart of all nodes in turn,
and back to two. One of the nodes has half the memory and, in a build with -tags faultinject, one
half the speed: each of its computations takes twice as long. Each change is compared with the
quiet windows before and after it. It needs root.

With --json one document: {"replicas","clients","window_seconds","changes":[{"change","tokens",
"seconds":{"median","min","max"},"quiet_itl_p99_ms":{…},"itl_p99_ms":{…},"ratio":{…},
"pooled_ratio","largest_gap_ms":{…},"quiet_largest_gap_ms":{…}}],"ratio":{…},"new_nodes",
"seconds_to_share":{…},"half_speed","half_speed_seconds_to_share":{…},"idle","requests","failed",
"differing","failures","violations"}.

Exit codes: 0 no request failed and no answer differed, 1 one did, or an error, 2 wrong usage,
130 interrupted. Times are reported, not judged.`,
		Example: "  drover bench elastic\n  drover bench elastic --rounds 3 --json",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.run(c.Context(), g, func(ctx context.Context, o trial.Options) (
				trialReport, []string, error) {
				r, err := trial.Elastic(ctx, o)
				return r, r.Violations, err
			})
		},
	}
	f.flags(c)
	c.Flags().IntVar(&f.opts.Rounds, "rounds", 2, "times that all changes are made, 1 to 100")
	return c
}
