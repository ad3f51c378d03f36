package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"drover/internal/evaluate"
	droverv1 "drover/proto/drover/v1"
)

func newEvalCommand(g *globals) *cobra.Command {
	var to target
	var opts evaluate.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "eval [--endpoint ADDR | --model DIR] --file FILE",
		Short: "Measure accuracy on questions with exact answers",
		Long: `Eval asks every question of a file, lines of JSON with "id", "task", "messages", "tools" and
"expected", and counts the answers that are exactly as expected: generated greedily, whole,
ended by the model itself. Questions with images are skipped and counted apart.

With --json: {"accuracy","n","correct","tasks":{TASK:{"accuracy","n","correct"}},"skipped",
"missed":[{"id","expected","answer"}]}.

Exit codes: 0 measured, 1 a question could not be asked, 2 wrong usage, 130 interrupted.`,
		Example: `  drover eval --file models/tiny-maverick/eval.jsonl
  drover eval --model models/tiny-maverick --file models/tiny-maverick/eval.jsonl --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if opts.File == "" {
				return usagef("--file is needed")
			}
			conn, stop, err := to.connect(c.Context())
			if err != nil {
				return err
			}
			defer stop()
			var clear func()
			opts.Progress, clear = progress(g, "questions")
			res, err := evaluate.Run(c.Context(), droverv1.NewCoordinatorServiceClient(conn), opts)
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
