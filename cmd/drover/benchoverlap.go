package main

import (
	"github.com/spf13/cobra"

	"drover/internal/bench"
	"drover/internal/role"
	"drover/kernel"
)

func newBenchOverlapCommand(g *globals) *cobra.Command {
	var opts bench.OverlapOptions
	var dir, modeText, cache string
	var asJSON bool
	c := &cobra.Command{
		Use:   "overlap --model DIR",
		Short: "Measure how much of the network micro-batches hide",
		Long: `Bench overlap decodes with the model in this process and its experts on nodes behind gRPC on
loopback, while everything between them takes so much longer each way as --delays says. Steps
are cut into 1 to 4 micro-batches: while the rows of one travel, the others compute. Settings
take turns of eight steps. Rows travel by mutual TLS, as between machines; --plaintext measures
without, and both say so.

It prints the times of steps, what a trip and computing took, how many micro-batches hide the
network by the formula 2(1 + Tc/Tf), and the part of the added time that did not make a step
longer than without delay. The formula can be met where a trip takes no longer than computing.

With --json one document: {"model","mode","cpus","nodes","transport","batch","layers",
"runs":[{"delay_ms","micro_batches","step_ms":{"min","median","max"},"tokens_per_second",
"one_way_ms","here_ms","there_ms","hiding_micro_batches","hidden"}]}.

Exit codes: 0 measured, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: `  drover bench overlap --model models/tiny-maverick
  drover bench overlap --model DIR --mode int4 --batch 32 --delays 1ms,5ms`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usagef("--model is required")
			}
			mode, err := kernel.ParseMode(modeText)
			if err != nil {
				return usageError{err}
			}
			if err := setProcessors(&opts.Threads); err != nil {
				return err
			}
			opts.Weights = role.Weights{Cache: cacheDir(cache), Log: warnings(g)}
			var clear func()
			opts.Progress, clear = progress(g, "rounds")
			rep, err := bench.Overlap(c.Context(), dir, mode, opts)
			clear()
			if err != nil {
				return err
			}
			return printReport(g, rep, asJSON)
		},
	}
	c.Flags().StringVar(&dir, "model", "", "model directory")
	modeFlag(c, &modeText)
	threadsFlag(c, &opts.Threads, "")
	cacheFlag(c, &cache, "")
	c.Flags().IntVar(&opts.Nodes, "nodes", 2, "expert nodes, 1 to 64")
	c.Flags().BoolVar(&opts.Plaintext, "plaintext", false, "plain text to the nodes, instead of "+
		"mutual TLS")
	c.Flags().IntVar(&opts.Batch, "batch", 32, "sequences that decode")
	c.Flags().IntVar(&opts.PromptTokens, "prompt-tokens", 128, "tokens of their prompts")
	c.Flags().IntVar(&opts.Steps, "steps", 48, "steps of each setting")
	c.Flags().DurationSliceVar(&opts.Delays, "delays", nil,
		"one-way times to add; none is always measured, too (default 1ms,5ms)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
