package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"drover/internal/answer"
	"drover/internal/batch"
	droverv1 "drover/proto/drover/v1"
)

type runFlags struct {
	target
	seed        uint64
	temperature float32
	topP        float32
	maxTokens   uint32
	expect      string
	batch       batch.Options
}

func newRunCommand(g *globals) *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run [--endpoint ADDR | --model DIR] [flags] \"prompt\"",
		Short: "Answer one prompt, or a file of prompts",
		Long: `Run asks a coordinator for an answer and prints it as it comes. The prompt is a user's
message, rendered with the model's chat template. With --model the model runs in this
process, without a network. With several coordinators, answers go on at another one when
theirs is lost, and are the same.

With --prompts and --out it answers a file: lines of JSON with "id", "messages" or
"prompt", "tools", "seed", "temperature", "max_tokens", "ignore_eos". The answers stand in
the order of the prompts, one line each with "id", "text", "tokens", "finish_reason",
"error". A run that was interrupted goes on where it stopped. --seed, --temperature and
--max-tokens then hold for lines that do not say otherwise.

With --expect the answer is compared, for checks of an installation.

Exit codes: 0 done, 1 an error, a line with one or another answer than expected, 2 wrong
usage, 130 interrupted.`,
		Example: `  drover run "Tell me a story about a fox."
  drover run --model models/tiny-maverick "Translate to French: The cat sees the blue key."
  drover run --temperature 0.8 --seed 7 "Tell me a story about a fox."
  drover run --endpoint 10.0.0.1:7070,10.0.0.2:7070 --tls client "Tell me a story about a fox."
  drover run --prompts questions.jsonl --out answers.jsonl --concurrency 32`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, g, args) },
	}
	f.target.flags(c)
	c.Flags().Uint64Var(&f.seed, "seed", 0, "seed of the random numbers (default: a new one)")
	c.Flags().Float32Var(&f.temperature, "temperature", 0, "0 is greedy (default: the model's own)")
	c.Flags().Float32Var(&f.topP, "top-p", 1, "keep the most probable tokens with this probability")
	c.Flags().Uint32Var(&f.maxTokens, "max-tokens", 0,
		"most tokens to answer (default: up to the context)")
	c.Flags().StringVar(&f.expect, "expect", "",
		"fail unless this is the answer, but for spaces around it")
	c.Flags().StringVar(&f.batch.Prompts, "prompts", "", "file of prompts, a JSON object a line")
	c.Flags().StringVar(&f.batch.Out, "out", "", "file for the answers, with --prompts")
	c.Flags().IntVar(&f.batch.Concurrency, "concurrency", 16, "requests in flight, with --prompts")
	return c
}

func (f *runFlags) run(c *cobra.Command, g *globals, args []string) error {
	many := f.batch.Prompts != "" || f.batch.Out != ""
	switch {
	case many && (f.batch.Prompts == "" || f.batch.Out == ""):
		return usagef("--prompts and --out go together")
	case many && len(args) > 0:
		return usagef("give a prompt or --prompts, not both")
	case !many && len(args) != 1:
		return usagef("one prompt is needed, in quotes; got %d arguments", len(args))
	case !many && strings.TrimSpace(args[0]) == "":
		return usagef("the prompt is empty")
	case !many && !utf8.ValidString(args[0]):
		return errors.New("the prompt is not valid UTF-8")
	}
	service, stop, err := f.open(c.Context(), g)
	if err != nil {
		return err
	}
	defer stop()
	if many {
		s := f.sampling(c)
		if s.TopP != nil {
			return usagef("--top-p does not go with --prompts")
		}
		if f.expect != "" {
			return usagef("--expect does not go with --prompts")
		}
		f.batch.Defaults = batch.Defaults{Seed: s.Seed, Temperature: s.Temperature,
			MaxTokens: f.maxTokens}
		return runBatch(c.Context(), service, f.batch)
	}
	return f.ask(c, g, service, args[0])
}

// ask prints one answer as it comes, and figures about it on a terminal.
func (f *runFlags) ask(c *cobra.Command, g *globals,
	service droverv1.CoordinatorServiceClient, prompt string) error {
	req := answer.Chat(prompt)
	req.MaxTokens, req.Sampling = f.maxTokens, f.sampling(c)
	got, err := answer.Stream(c.Context(), service, req,
		func(text string) { _, _ = io.WriteString(g.out, text) })
	if err != nil {
		return err
	}
	if !strings.HasSuffix(got.Text, "\n") {
		fmt.Fprintln(g.out)
	}
	if isTerminal(g.err) {
		fmt.Fprintln(g.err, figures(got))
	}
	if text := strings.TrimSpace(got.Text); f.expect != "" && text != strings.TrimSpace(f.expect) {
		return fmt.Errorf("the answer is %q, want %q", text, strings.TrimSpace(f.expect))
	}
	return nil
}

// figures are what a person may want to know of an answer. Of one that was resumed, no
// coordinator knows the times.
func figures(a *answer.Answer) string {
	if a.Resumes > 0 {
		return fmt.Sprintf("%d tokens, resumed on other coordinators: %d times", len(a.Tokens), a.Resumes)
	}
	return fmt.Sprintf("%d tokens, %.0f tokens/s, first after %s", len(a.Tokens), a.TokensPerSecond(),
		a.FirstToken().Round(time.Millisecond/10))
}

// sampling sends only what was given, so that the model's defaults hold for the rest.
func (f *runFlags) sampling(c *cobra.Command) *droverv1.Sampling {
	s := &droverv1.Sampling{}
	if c.Flags().Changed("seed") {
		s.Seed = &f.seed
	}
	if c.Flags().Changed("temperature") {
		s.Temperature = &f.temperature
	}
	if c.Flags().Changed("top-p") {
		s.TopP = &f.topP
	}
	return s
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
