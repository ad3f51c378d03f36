package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"drover/internal/answer"
	"drover/internal/verify"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// CompareOptions says which modes of a model to compare. All fields but Progress are required.
type CompareOptions struct {
	// Options are the questions that every mode is asked.
	Options
	// Dir is the model's directory.
	Dir string
	// Against is the mode that Modes are compared with.
	Against kernel.Mode
	Modes   []kernel.Mode
	// Open serves the model in a mode until the returned function is called. The mode Against is
	// served beside each of the others.
	Open verify.Opener
}

// Comparison is what modes cost in accuracy.
type Comparison struct {
	Against ModeResult   `json:"against"`
	Modes   []ModeResult `json:"modes"`
	// Positions is the number of tokens, of all prompts and expected answers, whose
	// distributions of the next token were compared.
	Positions int `json:"positions"`
	// Skipped is the number of questions with images, which are not asked.
	Skipped int `json:"skipped"`
}

// ModeResult is what a mode answers, and how far it is from the mode it is compared with.
type ModeResult struct {
	Mode     string   `json:"mode"`
	Accuracy float64  `json:"accuracy"`
	N        int      `json:"n"`
	Correct  int      `json:"correct"`
	Distance Distance `json:"distance"`
}

// Distance is how far a mode's distributions of the next token are from another mode's, over all
// positions: the Kullback-Leibler divergence in nats, KL(against || mode), and the share of
// positions with the same most probable token.
type Distance struct {
	MeanKL    float64 `json:"mean_kl"`
	LargestKL float64 `json:"largest_kl"`
	SameTop   float64 `json:"same_top"`
}

func (o *CompareOptions) validate() error {
	switch {
	case o.Dir == "" || o.Open == nil || o.Against == 0:
		return errors.New("compare modes: a directory, a way to open it and a mode are needed")
	case len(o.Modes) == 0:
		return fmt.Errorf("compare modes with %v: no modes are given", o.Against)
	}
	return o.Options.validate()
}

// Compare asks every mode all questions, and runs every mode over the prompts with the expected
// answers.
func Compare(ctx context.Context, opts CompareOptions) (Comparison, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return Comparison{}, err
	}
	questions, skipped, err := read(opts.File)
	if err != nil {
		return Comparison{}, err
	}
	dialogues, err := opts.dialogues(ctx, questions)
	if err != nil {
		return Comparison{}, err
	}
	rep := Comparison{Skipped: skipped}
	for _, d := range dialogues {
		rep.Positions += len(d)
	}
	base, stop, err := opts.Open(ctx, opts.Dir, opts.Against)
	if err != nil {
		return Comparison{}, err
	}
	defer stop()
	if rep.Against, err = opts.mode(ctx, opts.Against, base, questions); err != nil {
		return Comparison{}, err
	}
	rep.Against.Distance = Distance{SameTop: 1}
	for _, m := range opts.Modes {
		r, err := opts.compared(ctx, m, base, questions, dialogues)
		if err != nil {
			return Comparison{}, fmt.Errorf("mode %v: %w", m, err)
		}
		rep.Modes = append(rep.Modes, r)
	}
	return rep, nil
}

// dialogues are the prompts with the expected answers, as tokens.
func (o *CompareOptions) dialogues(ctx context.Context, questions []question) ([][]int32, error) {
	p, err := verify.NewPrompter(o.Dir, time.Time{})
	if err != nil {
		return nil, err
	}
	all := make([][]int32, len(questions))
	for i, q := range questions {
		if all[i], err = p.Dialogue(ctx, q.Messages, q.Tools, *q.Expected); err != nil {
			return nil, fmt.Errorf("render %s: %w", q.ID, err)
		}
	}
	return all, nil
}

// mode asks one mode all questions.
func (o *CompareOptions) mode(
	ctx context.Context, m kernel.Mode, client droverv1.CoordinatorServiceClient,
	questions []question,
) (ModeResult, error) {
	if err := askAll(ctx, client, o.Options, questions); err != nil {
		return ModeResult{}, err
	}
	t := tally(questions)
	return ModeResult{Mode: m.String(), Accuracy: t.Accuracy, N: t.N, Correct: t.Correct}, nil
}

// compared measures one mode beside the one that it is compared with.
func (o *CompareOptions) compared(
	ctx context.Context, m kernel.Mode, base droverv1.CoordinatorServiceClient,
	questions []question, dialogues [][]int32,
) (ModeResult, error) {
	client, stop, err := o.Open(ctx, o.Dir, m)
	if err != nil {
		return ModeResult{}, err
	}
	defer stop()
	r, err := o.mode(ctx, m, client, questions)
	if err != nil {
		return ModeResult{}, err
	}
	var d distances
	for i, ids := range dialogues {
		want, err := answer.Score(ctx, base, ids, false)
		if err != nil {
			return ModeResult{}, err
		}
		got, err := answer.Score(ctx, client, ids, false)
		if err != nil {
			return ModeResult{}, err
		}
		for at := range ids {
			d.add(want[at].Logits, got[at].Logits)
		}
		o.Progress(i+1, len(dialogues))
	}
	r.Distance = d.distance()
	return r, nil
}

// distances gathers the Distance of many positions.
type distances struct {
	positions, same int
	sum, largest    float64
}

// add compares the logits of one position.
func (d *distances) add(want, got []float32) {
	p, top := logProbabilities(want)
	q, gotTop := logProbabilities(got)
	kl := 0.0
	for i, l := range p {
		if w := math.Exp(l); w > 0 {
			kl += w * (l - q[i])
		}
	}
	d.positions++
	if top == gotTop {
		d.same++
	}
	d.sum += kl
	d.largest = max(d.largest, kl) // NaN stays
}

func (d *distances) distance() Distance {
	if d.positions == 0 {
		return Distance{}
	}
	n := float64(d.positions)
	return Distance{MeanKL: d.sum / n, LargestKL: d.largest, SameTop: float64(d.same) / n}
}

// logProbabilities are those of logits, and the index of the largest.
func logProbabilities(logits []float32) (p []float64, top int) {
	p = make([]float64, len(logits))
	for i, l := range logits {
		if l > logits[top] {
			top = i
		}
	}
	sum := 0.0
	for i, l := range logits {
		p[i] = float64(l) - float64(logits[top])
		sum += math.Exp(p[i])
	}
	logSum := math.Log(sum)
	for i := range p {
		p[i] -= logSum
	}
	return p, top
}
