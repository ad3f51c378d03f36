//go:build cuda && linux

package cuda

import (
	"errors"
	"testing"

	"drover/kernel"
)

// TestMeasure measures all limits, whose kernels check what they computed.
func TestMeasure(t *testing.T) {
	d := openDevice(t)
	for _, l := range Limits {
		if rate, err := d.Measure(l, true); err != nil || !(rate > 0) {
			t.Errorf("%v: %v, %v", l, rate, err)
		}
	}
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
