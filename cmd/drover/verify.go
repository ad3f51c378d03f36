package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"drover/coordinator"
	"drover/internal/role"
	"drover/internal/verify"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

type verifyFlags struct {
	mode, endpoint, model, golden string
	at                            reach
	json                          bool
	compute                       role.Compute
	cache                         string
}

func newVerifyCommand(g *globals) *cobra.Command {
	f := &verifyFlags{}
	c := &cobra.Command{
		Use:   "verify PATH... | verify (--model DIR | --endpoint ADDR) --golden FILE",
		Short: "Compare numbers with recorded results of a reference",
		Long: `Verify checks fixtures: models, tokenizers, chat templates and malformed files, each a folder
with its expected results, or a tree of such folders. It prints a line for each case: name,
status, largest error, and what failed first or was left out. The status is passed, failed,
unsupported (this build does not run the architecture or format; not counted as passed) or
skipped (needs what is not there, such as vision).

Models run in this process, or with --endpoint in a coordinator, which must serve the
fixture's checkpoint and allow scoring; fixtures of other checkpoints are then skipped.
Mode exact demands logits within 0.0002 of the reference, the same experts and the same
greedy tokens; bf16 demands logits within 0.25, and lets near ties go the other way. Modes with
8 or 4 bits are not compared with recorded numbers: models are skipped, and drover eval --against
measures what such a mode costs.

With --golden the recorded prompts of a file are replayed: prompts, tokens and most probable
alternatives. --model then says where the model is, and may stand beside --endpoint.

With --json each case is one line of JSON, {"name","status","largest_error","tolerance",
"compared","detail"}, and the last line is {"summary":{"passed","failed","unsupported",
"skipped"}}.

Exit codes: 0 nothing failed, 1 something did, 2 wrong usage, 130 interrupted.`,
		Example: `  drover verify testdata/fixtures
  drover verify --mode bf16 testdata/fixtures/models/llama4_scout_causal
  drover verify --endpoint 127.0.0.1:7070 testdata/fixtures/models/llama4_scout_causal
  drover verify --model models/tiny-maverick --golden models/tiny-maverick/golden.jsonl`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c.Context(), g, args) },
	}
	c.Flags().StringVar(&f.mode, "mode", "",
		modeHelp+" (default exact, with --endpoint the served one)")
	c.Flags().StringVar(&f.endpoint, "endpoint", "", "gRPC address of a coordinator to check")
	f.at.flags(c)
	c.Flags().StringVar(&f.model, "model", "", "model directory, with --golden")
	c.Flags().StringVar(&f.golden, "golden", "", "file of recorded prompts, a JSON object a line")
	computeFlags(c, &f.compute, "without --endpoint: ")
	cacheFlag(c, &f.cache, "without --endpoint: ")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return c
}

func (f *verifyFlags) run(ctx context.Context, g *globals, paths []string) error {
	switch {
	case f.golden == "" && len(paths) == 0:
		return usagef("give folders of fixtures, or --golden")
	case f.golden == "" && f.model != "":
		return usagef("--model goes with --golden; fixtures are named by their PATH")
	case f.golden != "" && len(paths) > 0:
		return usagef("give folders of fixtures or --golden, not both")
	case f.golden != "" && f.model == "" && f.endpoint == "":
		return usagef("--golden needs --model or --endpoint")
	}
	if f.mode != "" {
		if _, err := kernel.ParseMode(f.mode); err != nil {
			return usageError{err}
		}
	}
	if f.endpoint != "" && f.compute.Threads != 0 {
		return usagef("--threads is for models in this process; an endpoint has its own")
	}
	if _, err := role.ParseDevice(f.compute.Device); err != nil {
		return usagef("--device: %w", err)
	}
	if err := setProcessors(&f.compute.Threads); err != nil {
		return err
	}
	opts := verify.Options{Mode: f.mode, Open: openInProcess(g, f.compute, f.cache),
		Report: f.printer(g)}
	if f.endpoint != "" {
		conn, stop, err := dial(f.endpoint, f.at)
		if err != nil {
			return err
		}
		defer stop()
		opts.Client = droverv1.NewCoordinatorServiceClient(conn)
	}
	var sum verify.Summary
	var err error
	if f.golden != "" {
		sum, err = verify.Recorded(ctx, f.golden, f.model, opts)
	} else {
		sum, err = verify.Run(ctx, paths, opts)
	}
	if sum != (verify.Summary{}) {
		f.printSummary(g, sum)
	}
	if err == nil && sum.Failed > 0 {
		err = errSilent
	}
	return err
}

// openInProcess serves a checkpoint, computed by a device, for as long as it is
// checked; fixtures need little cache.
func openInProcess(g *globals, compute role.Compute, cache string) verify.Opener {
	return func(ctx context.Context, dir string, mode kernel.Mode) (
		client droverv1.CoordinatorServiceClient, stop func(), err error,
	) {
		conn, stop, err := role.InProcess(ctx, dir, role.InProcessOptions{Mode: mode, Compute: compute,
			Weights: role.Weights{Cache: cacheDir(cache), Log: warnings(g)},
			Engine:  coordinator.Options{KVBytes: 64 << 20}})
		if err != nil {
			return nil, nil, err
		}
		return droverv1.NewCoordinatorServiceClient(conn), stop, nil
	}
}

// printer prints results as they come.
func (f *verifyFlags) printer(g *globals) func(verify.Result) {
	if f.json {
		e := json.NewEncoder(g.out)
		e.SetEscapeHTML(false)
		return func(r verify.Result) { _ = e.Encode(r) } // a closed pipe ends the process
	}
	return func(r verify.Result) {
		largest := "-"
		if r.Tolerance > 0 {
			largest = fmt.Sprintf("%.2g", r.LargestError)
		}
		detail := ""
		if r.Detail != "" {
			detail = "  " + r.Detail
		}
		fmt.Fprintf(g.out, "%-52s %-11s %8s%s\n", r.Name, r.Status, largest, detail)
	}
}

func (f *verifyFlags) printSummary(g *globals, s verify.Summary) {
	if f.json {
		_ = json.NewEncoder(g.out).Encode(map[string]verify.Summary{"summary": s})
		return
	}
	fmt.Fprintf(g.out, "%d passed, %d failed, %d unsupported, %d skipped\n",
		s.Passed, s.Failed, s.Unsupported, s.Skipped)
}
