package router

import (
	"testing"
	"time"
)

// TestNetworkAverages checks that the averages follow what is measured, at first at once
// and later within some windows, and that a node's clock cannot make a time negative.
func TestNetworkAverages(t *testing.T) {
	var n network
	n.add(3*time.Millisecond, time.Millisecond)
	want := Network{OneWay: time.Millisecond, Node: time.Millisecond, Frames: 1}
	if n.average != want {
		t.Errorf("after one frame %+v, want %+v", n.average, want)
	}
	for range 10 * networkWindow {
		n.add(5*time.Millisecond, 3*time.Millisecond)
	}
	a := n.average
	if a.OneWay != time.Millisecond || a.Node < 2990*time.Microsecond || a.Node > 3*time.Millisecond {
		t.Errorf("after many frames %+v, want 1 ms and 3 ms", a)
	}
	for range 20 * networkWindow {
		n.add(time.Millisecond, time.Second)
	}
	if a := n.average; a.OneWay < 0 || a.OneWay > time.Microsecond {
		t.Errorf("with a node's time beyond the round trip: one way is %v", a.OneWay)
	}
}
