package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"drover/internal/evaluate"
	"drover/internal/role"
	"drover/kernel"
)

func newEvalCommand(g *globals) *cobra.Command {
	var to target
	var opts evaluate.Options
	var asJSON bool
	var against string
	c := &cobra.Command{
		Use:   "eval [--endpoint ADDR | --model DIR] --file FILE",
		Short: "Measure accuracy on questions with exact answers",
		Long: `Eval asks every question of a file, lines of JSON with "id", "task", "messages", "tools" and
"expected", and counts the answers that are exactly as expected: generated greedily, whole,
ended by the model itself. Questions with images are skipped and counted apart.

With --against MODE, --mode is a list of modes of --model. Each of them and MODE answer all
questions, and each runs over the prompts with the expected answers: the distance of its
distributions of the next token from MODE's is the mean of KL(MODE || mode) over all positions,
in nats, and the share of positions with the same most probable token. Two copies of the model
are in memory at a time.

With --json: {"accuracy","n","correct","tasks":{TASK:{"accuracy","n","correct"}},"skipped",
"missed":[{"id","expected","answer"}]}; with --against {"against":{"mode","accuracy","n",
"correct"},"modes":[{…,"distance":{"mean_kl","largest_kl","same_top"}}],"positions","skipped"}.

Exit codes: 0 measured, 1 a question could not be asked, 2 wrong usage, 130 interrupted.`,
		Example: `  drover eval --file models/tiny-maverick/eval.jsonl
  drover eval --model models/tiny-maverick --file models/tiny-maverick/eval.jsonl --json
  drover eval --model models/tiny-maverick --file models/tiny-maverick/eval.jsonl \
    --against bf16 --mode int8,int4`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if opts.File == "" {
				return usagef("--file is needed")
			}
			if against != "" {
				return compareModes(c.Context(), g, to, against, opts, asJSON)
			}
			service, stop, err := to.open(c.Context(), g)
			if err != nil {
				return err
			}
			defer stop()
			var clear func()
			opts.Progress, clear = progress(g, "questions")
			res, err := evaluate.Run(c.Context(), service, opts)
			clear()
			switch {
			case err != nil:
				return err
			case asJSON:
				return json.NewEncoder(g.out).Encode(res)
			}
			return printAccuracy(g, res)
		},
	}
	to.flags(c)
	c.Flags().StringVar(&opts.File, "file", "", "questions, a JSON object a line")
	c.Flags().StringVar(&against, "against", "",
		"with --model: compare the modes listed in --mode with this one")
	c.Flags().IntVar(&opts.Concurrency, "concurrency", 16, "requests in flight")
	c.Flags().Uint32Var(&opts.MaxTokens, "max-tokens", 512, "cut off answers that are longer")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printAccuracy(g *globals, res evaluate.Result) error {
	w := tabwriter.NewWriter(g.out, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(res.Tasks)) {
		t := res.Tasks[name]
		fmt.Fprintf(w, "%s\t%d/%d\t%.1f %%\n", name, t.Correct, t.N, 100*t.Accuracy)
	}
	fmt.Fprintf(w, "all\t%d/%d\t%.1f %%\n", res.Correct, res.N, 100*res.Accuracy)
	if res.Skipped > 0 {
		fmt.Fprintf(w, "skipped\t%d\twith images\n", res.Skipped)
	}
	return w.Flush()
}

// compareModes measures what modes cost in accuracy.
func compareModes(ctx context.Context, g *globals, to target, against string,
	opts evaluate.Options, asJSON bool) error {
	if to.model == "" || to.endpoint != "" {
		return usagef("--against needs --model: each mode is served in this process")
	}
	base, err := kernel.ParseMode(against)
	if err != nil {
		return usageError{err}
	}
	modes, err := parseModes(to.mode)
	if err != nil {
		return usageError{err}
	}
	if err := setProcessors(&to.threads); err != nil {
		return err
	}
	var clear func()
	opts.Progress, clear = progress(g, "questions")
	res, err := evaluate.Compare(ctx, evaluate.CompareOptions{Options: opts, Dir: to.model,
		Against: base, Modes: modes, Open: openInProcess(g, role.Compute{Threads: to.threads}, to.cache)})
	clear()
	switch {
	case err != nil:
		return err
	case asJSON:
		return json.NewEncoder(g.out).Encode(res)
	}
	w := tabwriter.NewWriter(g.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "mode\tcorrect\taccuracy\tdifference\tmean KL\tlargest KL\tsame top\n")
	for _, m := range append([]evaluate.ModeResult{res.Against}, res.Modes...) {
		fmt.Fprintf(w, "%s\t%d/%d\t%.1f %%\t%+.1f\t%.2g\t%.2g\t%.2f %%\n", m.Mode, m.Correct, m.N,
			100*m.Accuracy, 100*(m.Accuracy-res.Against.Accuracy), m.Distance.MeanKL,
			m.Distance.LargestKL, 100*m.Distance.SameTop)
	}
	fmt.Fprintf(w, "KL(%s || mode) in nats, over %d positions\n", res.Against.Mode, res.Positions)
	return w.Flush()
}

// parseModes reads modes between commas, some of which belong to a mode's own name, as in
// int8,int4,head=bf16.
func parseModes(s string) ([]kernel.Mode, error) {
	var names []string
	for part := range strings.SplitSeq(s, ",") {
		if strings.Contains(part, "=") && len(names) > 0 {
			names[len(names)-1] += "," + part
			continue
		}
		names = append(names, part)
	}
	var modes []kernel.Mode
	for _, name := range names {
		m, err := kernel.ParseMode(name)
		if err != nil {
			return nil, err
		}
		modes = append(modes, m)
	}
	return modes, nil
}
