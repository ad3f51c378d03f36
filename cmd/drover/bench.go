package main

import (
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"drover/internal/bench"
	"drover/internal/role"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

func newBenchCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure speed",
		Long: `Bench measures speed; each of its commands says of what.

Exit codes: 0 measured, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: "  drover bench model --model models/tiny-maverick\n" +
			"  drover bench kernels --quick",
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newBenchModelCommand(g), newBenchKernelsCommand(g), newBenchOverlapCommand(g),
		newBenchServeCommand(g), newBenchStormCommand(g), newBenchRandomCommand(g))
	c.AddCommand(trialCommands(g)...)
	return c
}

func newBenchKernelsCommand(g *globals) *cobra.Command {
	var opts bench.KernelOptions
	var gpu gpuKernels
	var asJSON bool
	c := &cobra.Command{
		Use:   "kernels",
		Short: "Measure the kernels as fractions of what this machine can do",
		Long: `Bench kernels measures what this machine can do, with one thread and with all: the rate of
reading memory, of float32 multiply-adds, and of exact dot products of small integers. Then it
measures the kernels in the shapes of Llama 4 Maverick and some smaller ones, by turns with
these limits, and prints which fraction of the limit each reaches: of the one that bounds it,
memory or arithmetic. Rates are by the time that threads ran, so that others on the machine
disturb less. Experts of a layer have the rows that the demo model's gate gives them.
It ends with the part of small kernels in a decode step, computed from the rates, and with how
many rates are below their goals.

It takes up to five minutes and 4 GiB of memory. With --quick it takes up to one minute: large
matrices are computed in part, some sizes are left out. With --instructions kernels and limits
use a lower set of instructions than the machine has.

In the list, a mode is the format of the weights, or of keys and values, and class the kernel
class of the numeric mode with this format.

With --json one document: {"cpu","flags","threads","load","instructions","limits":{"read_gbps":
[…],"fma_gflops":[…],"int8_gops":[…],"int4_gops":[…]},"results":[{"kernel","mode","class",
"instructions","m","n","k","threads","gbps","gflops","limit","fraction","min","max","goal"}],
"skipped":[{…,"why"}],"steps":[{"mode","threads","milliseconds","small"}]}.

` + gpuKernelsHelp + `

Exit codes: 0 measured, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: `  drover bench kernels
  drover bench kernels --quick --json
  drover bench kernels --quick --instructions avx2
  drover bench kernels --device cuda:0`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if rep, asked, err := gpu.bench(c.Context(), g, opts); asked || err != nil {
				if err != nil {
					return err
				}
				return printReport(g, rep, asJSON)
			}
			var err error
			if opts.Threads, err = threadsOr(opts.Threads); err != nil {
				return err
			}
			var clear func()
			opts.Progress, clear = progress(g, "measurements")
			rep, err := bench.Kernels(c.Context(), opts)
			clear()
			if err != nil {
				return err
			}
			return printReport(g, rep, asJSON)
		},
	}
	c.Flags().BoolVar(&opts.Quick, "quick", false, "measure less, for a look")
	threadsFlag(c, &opts.Threads, "")
	c.Flags().StringVar(&opts.Instructions, "instructions", "",
		"go, avx2, avx512 or avx512vnni (default the best that the machine has)")
	gpu.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newBenchModelCommand(g *globals) *cobra.Command {
	var to target
	var opts bench.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "model [--model DIR | --endpoint ADDR]",
		Short: "Measure prefill and decode of a model",
		Long: `Bench model measures prefill of prompts of 16, 128 and 512 tokens, and decode of 1, 8 and
32 sequences at once, each several times after one that does not count, and prints the
smallest, median and largest rate in tokens per second. Tokens are random, so that they visit
many experts.

With --model the forward pass runs in this process, and the share of its time is shown: in
attention, experts, shared experts, the gate, the head, all else, on the wire and idle. The
rates of decode are then those of single steps, and so are rates by CPU time in the JSON.
Nothing is on the wire unless --nodes puts the experts on nodes behind gRPC on loopback, by
mutual TLS, or with --plaintext without; both say so.
With --endpoint a coordinator is measured as a client sees it.

With --json one document: {"model","mode","where","cpus","runs":[{"kind","batch",
"prompt_tokens","tokens_per_second":{"min","median","max"},"share":{…}}]}; with --model runs have
"tokens_per_cpu_second", too, and the document "start":{"seconds","cpu_seconds","peak_bytes",
"anonymous_bytes","file_bytes"}, the cost of loading and the memory in use after all.

Exit codes: 0 measured, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: `  drover bench model --model models/tiny-maverick
  drover bench model --model models/tiny-maverick --nodes 4
  drover bench model --model DIR --mode int4 --threads 1 --batches 1,4,16 --prompts 512
  drover bench model --endpoint 127.0.0.1:7070 --quick --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var clear func()
			opts.Progress, clear = progress(g, "measurements")
			rep, err := to.bench(c.Context(), g, opts)
			clear()
			if err != nil {
				return err
			}
			return printReport(g, rep, asJSON)
		},
	}
	to.flags(c)
	c.Flags().IntSliceVar(&opts.Batches, "batches", nil, "sequences that decode (default 1,8,32)")
	c.Flags().IntSliceVar(&opts.Prompts, "prompts", nil, "tokens of prompts (default 16,128,512)")
	c.Flags().IntVar(&opts.PromptTokens, "prompt-tokens", 0,
		"tokens of each prompt before decode (default 128)")
	c.Flags().IntVar(&opts.PieceTokens, "piece-tokens", 0,
		"with --model: tokens of a prompt in a step (default 256)")
	c.Flags().IntVar(&opts.Nodes, "nodes", 0, "with --model: expert nodes behind gRPC")
	c.Flags().BoolVar(&opts.Quick, "quick", false, "measure less, for a look")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// bench measures the target.
func (t *target) bench(ctx context.Context, g *globals, opts bench.Options) (
	bench.Report, error) {
	if t.model != "" && t.endpoint == "" {
		mode, err := kernel.ParseMode(t.mode)
		if err != nil {
			return bench.Report{}, usageError{err}
		}
		if opts.Threads, err = threadsOr(t.threads); err != nil {
			return bench.Report{}, err
		}
		if opts.Plaintext = t.reach.plain; opts.Plaintext && opts.Nodes == 0 {
			return bench.Report{}, usagef("--plaintext with --model goes with --nodes: without them " +
				"there is no connection")
		}
		opts.Weights = role.Weights{Cache: cacheDir(t.cache), Log: warnings(g)}
		return bench.Local(ctx, t.model, mode, opts)
	}
	if opts.Nodes != 0 || t.threads != 0 || t.cache != "" || opts.PieceTokens != 0 {
		return bench.Report{}, usagef("--nodes, --threads, --cache and --piece-tokens go with --model; " +
			"an endpoint has its own")
	}
	conn, stop, err := t.connect(ctx, g)
	if err != nil {
		return bench.Report{}, err
	}
	defer stop()
	return bench.Remote(ctx, droverv1.NewCoordinatorServiceClient(conn),
		"through "+orDefaultEndpoint(t.endpoint), opts)
}

// printReport prints what was measured, as a table for people or as JSON.
func printReport(g *globals, rep interface{ Text() string }, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(g.out).Encode(rep)
	}
	_, err := io.WriteString(g.out, rep.Text())
	return err
}
