package bench

import (
	"fmt"
	"strings"
)

// Text is the report as a table for people.
func (r DeviceReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s as %s, %s, driver %s, CUDA %s\n", r.Device.Name, r.Kind,
		r.Device.Architecture, orUnknown(r.Driver), r.CUDA)
	if r.Small {
		b.WriteString("small shapes: these rates tell nothing of the GPU\n")
	}
	if r.Rounding != "" {
		fmt.Fprintf(&b, "its tensor cores round as %s\n", r.Rounding)
	}
	if len(r.Distrusted) > 0 {
		fmt.Fprintf(&b, "computed wrongly, and not used: %s\n", strings.Join(r.Distrusted, ", "))
	}
	for _, l := range r.Limits {
		unit := "GFLOP/s"
		switch l.Limit {
		case "read":
			unit = "GB/s"
		case "int8", "tensor-int8":
			unit = "GOP/s"
		}
		fmt.Fprintf(&b, "limit %-11s %9.1f %s (%.1f to %.1f)\n", l.Limit, l.Median, unit, l.Min, l.Max)
	}
	fmt.Fprintf(&b, "%-18s %-5s %5s %6s %6s %-16s %10s %8s %9s %-11s %8s\n", "kernel", "mode", "m",
		"k", "n", "by", "µs", "GB/s", "GFLOP/s", "limit", "fraction")
	for _, x := range r.Results {
		below := ""
		if x.Fraction < x.Goal {
			below = fmt.Sprintf(", below %.0f%%", 100*x.Goal)
		}
		if x.Wrong {
			below += fmt.Sprintf(", WRONG: %.2g from a CPU's", *x.Differs)
		}
		fmt.Fprintf(&b, "%-18s %-5s %5d %6d %6d %-16s %10.1f %8s %9s %-11s %7.0f%%%s\n", x.Kernel,
			x.Mode, x.M, x.K, x.N, x.By, x.Micros.Median, rateText(x.GBps), rateText(x.GFlops), x.Limit,
			100*x.Fraction, below)
	}
	for _, x := range r.Skipped {
		fmt.Fprintf(&b, "not measured: %s %s, m %d: %s\n", x.Kernel, x.Mode, x.M, x.Why)
	}
	return b.String()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
