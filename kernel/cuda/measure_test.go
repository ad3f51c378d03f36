//go:build cuda && linux

package cuda

import (
	"errors"
	"slices"
	"testing"

	"drover/kernel"
)

// measured measures all limits, whose kernels check what they computed, by so many of Hopper's.
func measured(t *testing.T, d *Device, hopper int) {
	t.Helper()
	got := counted(t, func() {
		for _, l := range Limits {
			if rate, err := d.Measure(l, true); err != nil || !(rate > 0) {
				t.Errorf("%v: %v, %v", l, rate, err)
			}
		}
	}, "measure_hopper_bf16", "measure_hopper_int8", "measure_bf16", "measure_tensor_int8")
	if want := []int{hopper, hopper, 2 - hopper, 2 - hopper}; !slices.Equal(got, want) {
		t.Errorf("launches are %v, want %v", got, want)
	}
}

// TestMeasureOthers measures a device that is no Hopper.
func TestMeasureOthers(t *testing.T) {
	if with(t, "STANDIN", "sm_80") {
		measured(t, openDevice(t), 0)
	}
}

func TestMeasure(t *testing.T) {
	d := openDevice(t)
	measured(t, d, 2)
	_, err := d.Measure("speed", true)
	oneLine(t, err, "speed", "no such limit")
}

// TestTime takes the time of work, of no work, and of a device that is lost.
func TestTime(t *testing.T) {
	d := openDevice(t)
	x, err := d.Allocate(64, 64)
	if err != nil {
		t.Fatal(err)
	}
	done := false
	took, err := d.Time(func() { d.Add(x, x); done = true })
	if err != nil || took <= 0 || !done {
		t.Errorf("Time = %v, %v, done %v", took, err, done)
	}
	if took, err = d.Time(func() {}); err != nil || took < 0 {
		t.Errorf("Time of nothing = %v, %v", took, err)
	}
}

// TestMeasureLost has the device tell that it is lost.
func TestMeasureLost(t *testing.T) {
	needStandIn(t)
	a, err := OpenDevice(Kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	lose(t, 0)
	if _, err := a.Measure(LimitFMA, true); !errors.Is(err, kernel.ErrLost) || a.Err() == nil {
		t.Errorf("Measure of a lost device: %v, Err() = %v", err, a.Err())
	}
}
