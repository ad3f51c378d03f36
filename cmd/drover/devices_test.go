package main

import (
	"bytes"
	"strings"
	"testing"

	"drover/kernel/cuda"
)

// TestDevices checks that the command lists what there is here or says why not: that this
// build cannot look, or that there is no driver.
func TestDevices(t *testing.T) {
	var out bytes.Buffer
	root := newRoot(&globals{in: strings.NewReader(""), out: &out, err: &out})
	root.SetArgs([]string{"devices"})
	err := root.Execute()
	l, want := cuda.List()
	switch {
	case want != nil:
		if err == nil || err.Error() != want.Error() || strings.Contains(err.Error(), "\n") {
			t.Errorf("drover devices: %v, want one line: %v", err, want)
		}
	case len(l.GPUs) == 0:
		if err == nil || !strings.Contains(err.Error(), "no GPU") {
			t.Errorf("drover devices without a GPU: %v", err)
		}
	case err != nil || strings.Count(out.String(), "cuda:") != len(l.GPUs):
		t.Errorf("drover devices: %v, printed\n%s\nwant %d GPUs", err, &out, len(l.GPUs))
	}
}

func TestPrintDevices(t *testing.T) {
	var out bytes.Buffer
	err := printDevices(&out, cuda.Listing{Driver: "575.0", CUDA: "12.9", Notes: []string{"a note"},
		GPUs: []cuda.GPU{
			{Name: "A", Architecture: "sm_90", MemoryBytes: 3 << 29,
				Sensors: &cuda.Sensors{FreeBytes: 1 << 30, Celsius: 41, PowerWatts: 70.5}},
			{Index: 1, Name: "Beta", Architecture: "sm_100", MemoryBytes: 1 << 30},
		}})
	const want = `DEVICE  NAME  ARCHITECTURE  MEMORY   FREE     TEMPERATURE  POWER
cuda:0  A     sm_90         1.5 GiB  1.0 GiB  41 °C        70.5 W
cuda:1  Beta  sm_100        1.0 GiB  -        -            -
driver 575.0, CUDA 12.9
a note
`
	if err != nil || out.String() != want {
		t.Errorf("printed %v\n%s\nwant\n%s", err, &out, want)
	}
}
