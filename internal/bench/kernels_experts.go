package bench

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"

	"drover/kernel"
)

// expertRowsText holds, a line for each MoE layer of the demo model and step, how many rows each
// of its 128 experts has in that step: first steps in which 64 conversations of eval.jsonl decode
// together, one line for each layer, then steps of 512 tokens of prompts. TestExpertRows writes it.
//
//go:embed expert_rows.txt
var expertRowsText string

// expertRows is expertRowsText as numbers: experts of a step.
func expertRows() [][]int {
	var steps [][]int
	for line := range strings.Lines(expertRowsText) {
		var step []int
		for _, field := range strings.Fields(line) {
			n, err := strconv.Atoi(field)
			if err != nil {
				panic("bench: expert_rows.txt: " + err.Error()) // the file is part of the program
			}
			step = append(step, n)
		}
		steps = append(steps, step)
	}
	return steps
}

// expertShape is an expert's sizes.
type expertShape struct {
	hidden, width int
}

var (
	smallExpert    = expertShape{2048, 1024}
	maverickExpert = expertShape{hidden, expertWidth}
)

// stepRows are the totals of rows of the steps that are measured.
var stepRows = []int{64, 512}

// expertStep returns the rows of each expert that has any, in the first of the steps with so many
// in all. The others are not read.
func expertStep(rows int) []int {
	for _, step := range expertRows() {
		total := 0
		for _, n := range step {
			total += n
		}
		if total == rows {
			return slices.DeleteFunc(step, func(n int) bool { return n == 0 })
		}
	}
	panic("bench: expert_rows.txt has no step of " + strconv.Itoa(rows) + " rows")
}

// quickExpertBytes bounds the weights of a call with Quick.
const quickExpertBytes = 512 << 20

// experts is the experts of a layer, one after the other, each with its rows of a step. As many
// are there as memory has room for; all threads read the same ones, beginning at others.
func (p *planner) experts(s expertShape, f kernel.Format) subjectKernel {
	if p.opts.tiny {
		s = expertShape{64, 64}
	}
	up, down := kernel.MatrixBytes(2*s.width, s.hidden, f), kernel.MatrixBytes(s.hidden, s.width, f)
	most := p.memory.kernel
	if p.opts.Quick {
		most = min(most, quickExpertBytes)
	}
	n := max(1, min(experts, most/(up+down)))
	w := work(kernelExperts, f)
	w.K, w.N = s.hidden, 2*s.width
	return subjectKernel{w, stepRows, func() (func(m, t int) job, error) {
		ups, err := makeMatrices(n, 2*s.width, s.hidden, f)
		if err != nil {
			return nil, err
		}
		downs, err := makeMatrices(n, s.hidden, s.width, f)
		if err != nil {
			return nil, err
		}
		return func(rows, threads int) job {
			w := w
			w.Threads = threads
			step := expertStep(rows)
			step = step[:min(n, len(step))]
			var parts []part
			largest := 0
			for _, m := range step {
				parts = append(parts, productPart(m, 2*s.width, s.hidden, f),
					productPart(m, s.hidden, s.width, f))
				w.M += m
				largest = max(largest, m)
			}
			w.Experts = len(step)
			x, h := makeRows(threads, largest, s.hidden), makeRows(threads, largest, 2*s.width)
			g, y := makeRows(threads, largest, s.width), makeRows(threads, largest, s.hidden)
			scratch := make([]kernel.Activations, threads)
			return job{w, parts, arithmetic(f), func(t int) {
				for i := range step {
					e := (i + t*len(step)/threads) % len(step)
					m := step[e]
					multiply(ups[e], h[t].Slice(0, m), x[t].Slice(0, m), &scratch[t], 2*s.width)
					kernel.SwiGLU(g[t].Slice(0, m), h[t].Slice(0, m))
					multiply(downs[e], y[t].Slice(0, m), g[t].Slice(0, m), &scratch[t], s.hidden)
				}
			}}
		}, nil
	}}
}
