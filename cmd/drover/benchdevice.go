package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/bench"
	"drover/internal/role"
	"drover/kernel"
)

// gpuKernels is the part of bench kernels that measures a GPU.
type gpuKernels struct {
	device string
	opts   bench.DeviceOptions
}

const gpuKernelsHelp = `With --device cuda:N it measures a GPU instead, by the GPU's own clock: its limits (reading its
memory; float32; 8-bit integers; bfloat16 and 8-bit integers on tensor cores, by instructions that
all architectures have or by Hopper's own), an expert of Maverick with 1 to 1024 rows, and attention
over 8192 positions; with cuda-tensor:N the expert in bf16 and fp8, and attention in bf16, whose
products are on tensor cores then.
--json then prints {"device":{…},"kind","driver","cuda","limits":[{"limit","min","median","max"}],
"results":[{"kernel","mode","m","k","n","by","micros":{…},"gbps","gflops","limit","fraction",
"goal"}],"skipped":[{…,"why"}]}, with "distrusted" if kernels computed wrongly.`

func (k *gpuKernels) flags(c *cobra.Command) {
	c.Flags().StringVar(&k.device, "device", "", "measure a GPU, cuda:N or cuda-tensor:N")
	c.Flags().BoolVar(&k.opts.Small, "small", false,
		"with --device: tiny shapes, to see that all works; rates tell nothing")
	c.Flags().DurationVar(&k.opts.Within, "within", 0,
		"with --device: time after which nothing more is begun (default 2m)")
}

// bench measures the GPU, if that was asked for. of are the CPU's options.
func (k *gpuKernels) bench(ctx context.Context, g *globals, of bench.KernelOptions) (
	rep bench.DeviceReport, asked bool, err error) {
	switch {
	case k.device == "" && (k.opts.Small || k.opts.Within != 0):
		return rep, false, usagef("--small and --within go with --device")
	case k.device == "":
		return rep, false, nil
	case of.Quick || of.Threads != 0 || of.Instructions != "":
		return rep, false, usagef("--device measures a GPU: --quick, --threads and --instructions are " +
			"for the CPU")
	}
	gpu, err := role.ParseDevice(k.device)
	if err != nil {
		return rep, false, usagef("--device: %w", err)
	}
	if k.opts.Kind, k.opts.GPU = gpu.Kind, gpu.Index; gpu.Kind == "" {
		return rep, false, usagef("--device %s: name a GPU, cuda:N, or leave it out to measure the CPU",
			k.device)
	}
	var clear func()
	k.opts.Progress, clear = progress(g, "measurements")
	rep, err = bench.Device(ctx, k.opts)
	clear()
	return rep, true, err
}

func newBenchRandomCommand(g *globals) *cobra.Command {
	var opts bench.RandomOptions
	var compute role.Compute
	var mode string
	var asJSON bool
	c := &cobra.Command{
		Use:   "random --shape NAME",
		Short: "Measure a model of a known shape with random weights",
		Long: `Bench random measures prefill and decode as bench model does, of a model that nobody need have:
its weights are random, its layers as many as the GPU's memory has room for. Scout and maverick
are Llama 4's; small is for a look at whether everything works.

Beside the rates of decode it prints what a step must read of weights, of the experts that it
visits, and of keys and values, and on a GPU the rate that its memory allows, which is measured
first. With --nodes the experts are on nodes behind gRPC on loopback, each with the device for
itself: the difference to none is what the wire costs.

The checkpoint is a file with holes in the system's folder for temporary files: for scout and
maverick 2 GB on disk. All matrices of a shape have the same weights in the host's memory, and
each its own memory on a GPU.

With --json one document: that of bench model with {"device","shape","layers","whole_layers",
"expert_layers","weight_bytes","read_gbps":{…},"bounds":[{"batch","bytes","tokens_per_second",
"fraction"}],"left_out":[…]}.

Exit codes: 0 measured, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: `  drover bench random --shape scout --device cuda:0 --mode int4
  drover bench random --shape scout --device cuda:0 --layers 4 --nodes 1
  drover bench random --shape small --quick`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if opts.Shape == "" {
				return usagef("--shape is required: one of %s", strings.Join(bench.RandomShapes(), ", "))
			}
			if _, err := role.ParseDevice(compute.Device); err != nil {
				return usagef("--device: %w", err)
			}
			m, err := kernel.ParseMode(mode)
			if err != nil {
				return usageError{err}
			}
			if err := setProcessors(&compute.Threads); err != nil {
				return err
			}
			opts.Device, opts.Threads = compute.Device, compute.Threads
			var clear func()
			opts.Progress, clear = progress(g, "measurements")
			rep, err := bench.Random(c.Context(), m, opts)
			clear()
			if err != nil {
				return err
			}
			return printReport(g, rep, asJSON)
		},
	}
	c.Flags().StringVar(&opts.Shape, "shape", "", strings.Join(bench.RandomShapes(), ", "))
	c.Flags().IntVar(&opts.Layers, "layers", 0, "layers (default as many as the GPU has room for)")
	modeFlag(c, &mode)
	computeFlags(c, &compute, "")
	c.Flags().IntSliceVar(&opts.Batches, "batches", nil, "sequences that decode (default 1,8,32)")
	c.Flags().IntSliceVar(&opts.Prompts, "prompts", nil, "tokens of prompts (default 16,128,512)")
	c.Flags().IntVar(&opts.PromptTokens, "prompt-tokens", 0,
		"tokens of each prompt before decode (default 128)")
	c.Flags().IntVar(&opts.Nodes, "nodes", 0, "expert nodes behind gRPC, by mutual TLS")
	c.Flags().BoolVar(&opts.Plaintext, "plaintext", false, "with --nodes: plain text to the nodes")
	c.Flags().DurationVar(&opts.Within, "within", time.Hour, "time after which nothing more is begun")
	c.Flags().BoolVar(&opts.Quick, "quick", false, "measure less, for a look")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
