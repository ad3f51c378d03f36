package main

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"drover/internal/inspect"
	"drover/kernel"
)

func newInspectCommand(g *globals) *cobra.Command {
	var nodes int
	var modeText string
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect DIR",
		Short: "Tell what a model directory holds and what serving it takes",
		Long: `Inspect reads the configuration and the headers of a model directory, and of its weights the
samples that its digest covers: its architecture, layers, experts, parameters, element types,
tokenizer and chat template; the memory for weights that a coordinator and each of 1, 2,
4, … expert nodes need in a numeric mode, and what a token costs the network. A model that
this build cannot serve is described as far as its headers tell.

With --json one document: {"directory","architecture","unsupported","digest","form",
"weight_bytes","parameters","dtypes","tokenizer","chat_template","model","memory"}.

Exit codes: 0 done, 1 the directory is damaged or no model, 2 wrong usage.`,
		Example: `  drover inspect models/tiny-maverick
  drover inspect --nodes 6 --json models/tiny-maverick`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("one model directory is needed, got %d arguments", len(args))
			}
			if nodes < 0 {
				return usagef("--nodes is %d, must not be negative", nodes)
			}
			mode, err := kernel.ParseMode(modeText)
			if err != nil {
				return usagef("--mode: %v", err)
			}
			r, err := inspect.Dir(args[0], mode, nodes)
			switch {
			case err != nil:
				return err
			case asJSON:
				return json.NewEncoder(g.out).Encode(r)
			}
			_, err = io.WriteString(g.out, r.Text())
			return err
		},
	}
	c.Flags().IntVar(&nodes, "nodes", 0, "expert nodes to plan for (default: 1, 2, 4, …)")
	c.Flags().StringVar(&modeText, "mode", "bf16", modeHelp)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
