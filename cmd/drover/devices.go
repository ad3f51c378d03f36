package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"drover/kernel/cuda"
)

func newDevicesCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "devices",
		Short: "List this machine's GPUs",
		Long: `Devices lists the NVIDIA GPUs that this process may use, numbered as CUDA does: name,
architecture, memory, temperature, power; and the driver. It says why, if there are none.
Other commands take a GPU by --device cuda:N.

Only a build with -tags cuda on Linux can look. It loads the driver's own libraries,
libcuda.so.1 and libnvidia-ml.so.1, from where the dynamic linker finds them.

With --json one document: {"driver","cuda","gpus":[{"index","name","architecture",
"multiprocessors","bus","memory_bytes","sensors":{"free_bytes","celsius","power_watts"}}],
"notes"}; driver and sensors only if NVML tells them.

Exit codes: 0 there are GPUs, 1 there are none or they cannot be reached, 2 wrong usage.`,
		Example: `  drover devices
  CUDA_VISIBLE_DEVICES=1 drover devices --json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := cuda.List()
			switch {
			case err != nil:
				return err
			case len(l.GPUs) == 0:
				return fmt.Errorf("the driver shows no GPU to this process: is CUDA_VISIBLE_DEVICES empty?")
			case asJSON:
				return json.NewEncoder(g.out).Encode(l)
			}
			return printDevices(g.out, l)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printDevices writes a table of GPUs, then what is not known.
func printDevices(out io.Writer, l cuda.Listing) error {
	const gib = 1 << 30
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "DEVICE\tNAME\tARCHITECTURE\tMEMORY\tFREE\tTEMPERATURE\tPOWER\n")
	for _, d := range l.GPUs {
		fmt.Fprintf(w, "cuda:%d\t%s\t%s\t%.1f GiB", d.Index, d.Name, d.Architecture,
			float64(d.MemoryBytes)/gib)
		if s := d.Sensors; s != nil {
			fmt.Fprintf(w, "\t%.1f GiB\t%d °C\t%.1f W\n", float64(s.FreeBytes)/gib, s.Celsius,
				s.PowerWatts)
		} else {
			fmt.Fprintf(w, "\t-\t-\t-\n")
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	driver := l.Driver
	if driver == "" {
		driver = "unknown"
	}
	if _, err := fmt.Fprintf(out, "driver %s, CUDA %s\n", driver, l.CUDA); err != nil {
		return err
	}
	for _, note := range l.Notes {
		if _, err := fmt.Fprintln(out, note); err != nil {
			return err
		}
	}
	return nil
}
