package bench

import (
	"runtime"

	"drover/internal/limits"
	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

// smallKernels are the kernels that work on rows alone, by name.
var smallKernels = []string{kernelSwiGLU, kernelRMSNorm, kernelRotate, kernelAdd, kernelRound,
	kernelTopK, kernelSigmoid}

// smallKernel is one of them: it makes rows of outputs from rows of inputs.
type smallKernel struct {
	inputs, outputs int
	// flops is operations for an output, as a vectorised kernel would need them: e^x is a
	// polynomial of degree 6 with its reduction, and a sigmoid adds to it and divides.
	flops int
	do    func(y, x tensor.Rows, s *smallScratch)
}

// smallScratch is what a thread's small kernel works with.
type smallScratch struct {
	weight, cos, sin []float32
	routes           moe.Routes
}

const flopsSigmoid = 18

func newSmallKernel(name string) smallKernel {
	switch name {
	case kernelSwiGLU:
		return smallKernel{2 * expertWidth, expertWidth, flopsSigmoid + 2,
			func(y, x tensor.Rows, _ *smallScratch) { kernel.SwiGLU(y, x) }}
	case kernelRMSNorm:
		return smallKernel{hidden, hidden, 4, func(y, x tensor.Rows, s *smallScratch) {
			kernel.RMSNorm(y, x, s.weight, 1e-5)
		}}
	case kernelRotate:
		return smallKernel{(heads + kvHeads) * headDim, (heads + kvHeads) * headDim, 3,
			func(_, x tensor.Rows, s *smallScratch) {
				for i := range x.N {
					kernel.RotatePairs(x.Row(i), s.cos, s.sin)
				}
			}}
	case kernelAdd:
		return smallKernel{hidden, hidden, 1,
			func(y, x tensor.Rows, _ *smallScratch) { kernel.Add(y.Data, x.Data) }}
	case kernelRound:
		return smallKernel{hidden, hidden, 3,
			func(_, x tensor.Rows, _ *smallScratch) { kernel.Round(x.Data, tensor.BF16) }}
	case kernelTopK:
		return smallKernel{experts, experts, 1,
			func(_, x tensor.Rows, s *smallScratch) { moe.SigmoidTopK(x, 1, &s.routes) }}
	}
	return smallKernel{hidden, hidden, flopsSigmoid,
		func(y, x tensor.Rows, _ *smallScratch) { kernel.Sigmoid(y.Data, x.Data) }}
}

// small measures a small kernel on rows that lie in memory.
func (p *planner) small(name string) subjectKernel {
	const most = 64
	k := newSmallKernel(name)
	w := work(name, kernel.WeightsF32)
	w.K, w.N = k.inputs, k.outputs
	copies := p.copies(4 * k.inputs * most)
	return subjectKernel{w, []int{1, most}, func() (func(m, t int) job, error) {
		in, err := makeFloats(copies * most * k.inputs)
		if err != nil {
			return nil, err
		}
		return func(m, threads int) job {
			w := w
			w.M, w.Threads = m, threads
			y := makeRows(threads, m, k.outputs)
			scratch := make([]smallScratch, threads)
			for t := range scratch {
				angles := makeRows(1, 2, headDim/2)[0]
				scratch[t] = smallScratch{weight: makeRows(1, 1, k.inputs)[0].Data,
					cos: angles.Row(0), sin: angles.Row(1)}
			}
			walk := newWalk(copies*most/m, threads)
			all := part{float64(4 * m * k.inputs), float64(k.flops) * float64(m*k.outputs)}
			return job{w, []part{all}, limits.FMA, func(t int) {
				at := walk.next(t) * m * k.inputs
				x := tensor.Rows{Data: in.x[at : at+m*k.inputs], N: m, Dim: k.inputs}
				k.do(y[t], x, &scratch[t])
				runtime.KeepAlive(in.buf)
			}}
		}, nil
	}}
}

// StepShare is what small kernels are of a decode step of one token in Llama 4 Maverick's shape,
// with a short context of bfloat16, computed from the measured rates: products and attention at
// the rates of all the threads, small kernels at those of one.
type StepShare struct {
	Mode    string `json:"mode"`
	Threads int    `json:"threads"`
	// Milliseconds is the step's time; Small is the part of it in small kernels.
	Milliseconds float64 `json:"milliseconds"`
	Small        float64 `json:"small"`
}

// Llama 4 Maverick: layers, those with experts, those with rotation, experts, dense width.
const (
	layers       = 48
	expertLayers = 24
	rotateLayers = 36
	experts      = 128
	denseWidth   = 16384
	vocabulary   = 202048
	// stepContext is the positions of context in a StepShare.
	stepContext = 512
)

// smallOutputs is how many outputs of each small kernel a token needs. The sigmoid belongs to the
// gate, which takes one for each of its rows.
var smallOutputs = map[string]float64{
	kernelSwiGLU:  expertLayers*2*expertWidth + (layers-expertLayers)*denseWidth,
	kernelRMSNorm: (2*layers + 1) * hidden,
	kernelRotate:  rotateLayers * (heads + kvHeads) * headDim,
	kernelAdd:     (2*layers + expertLayers) * hidden,
	kernelRound:   expertLayers*2*hidden + layers*2*kvHeads*headDim,
	kernelTopK:    expertLayers * experts,
}

// stepWeights is how many weights of linear layers a token needs.
const stepWeights = layers*(2*hidden*hidden+2*hidden*kvHeads*headDim) +
	expertLayers*2*3*hidden*expertWidth + (layers-expertLayers)*3*hidden*denseWidth +
	hidden*vocabulary

// stepShares computes a StepShare for each mode and number of threads that has all rates.
func stepShares(results []KernelResult) []StepShare {
	shares := []StepShare{}
	small, complete := 0.0, true
	for name, outputs := range smallOutputs {
		r, ok := found(results, KernelWork{Kernel: name, Mode: "f32", M: 1, Threads: 1})
		complete = complete && ok
		small += outputs * float64(newSmallKernel(name).flops) / (r.GFlops * 1e9)
	}
	if !complete {
		return shares
	}
	for _, r := range results {
		if r.Kernel != kernelMatmul || r.M != 1 || r.K != hidden || r.N != 2*expertWidth {
			continue
		}
		a, ok := found(results, KernelWork{Kernel: kernelDecode, Mode: "bf16", M: 1,
			Threads: r.Threads, N: stepContext})
		if !ok {
			continue
		}
		// A call's bytes and operations are in a fixed proportion.
		products := 2 * stepWeights / (r.GFlops * 1e9)
		attention := layers * 4 * stepContext * heads * headDim / (a.GFlops * 1e9)
		all := products + attention + small
		shares = append(shares, StepShare{r.Mode, r.Threads, 1000 * all, small / all})
	}
	return shares
}

// found returns the first result of a kernel in a mode, with so many rows and threads, and with
// so many outputs or positions, if they are given.
func found(results []KernelResult, w KernelWork) (KernelResult, bool) {
	for _, r := range results {
		if r.Kernel == w.Kernel && r.Mode == w.Mode && r.M == w.M && r.Threads == w.Threads &&
			(w.N == 0 || r.N == w.N) {
			return r, true
		}
	}
	return KernelResult{}, false
}
