//go:build cuda && linux

package cuda

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

const (
	layerHidden, layerHeads, layerKVHeads, layerDim, layerWidth = 48, 4, 2, 12, 80
	layerTokens                                                 = 40
)

// layers is a small dense model on a device, without embeddings and a head.
type layers struct {
	d                      kernel.Device
	x, h, out, q, k, v, at kernel.Rows
	cos, sin               kernel.Rows
	attend                 kernel.Attention
	kv                     kernel.KV
	all                    []layer
	ahead                  bool // rows are on their way to the host when they are written
}

type layer struct {
	norm       kernel.Rows
	q, k, v, o kernel.Weights
	network    kernel.FeedForwardPart
}

func must1[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newLayers makes the same weights for every device.
func newLayers(t *testing.T, d kernel.Device, f kernel.Format, n int) *layers {
	t.Helper()
	rng := rand.New(rand.NewPCG(41, 42))
	upload := func(n, k int) kernel.Weights {
		return must1(d.Upload(newMatrix(t, rng, n, k, f)))(t)
	}
	rows := func(dim int) kernel.Rows { return must1(d.Allocate(1, dim))(t) }
	const q, k = layerHeads * layerDim, layerKVHeads * layerDim
	m := &layers{d: d, x: rows(layerHidden), h: rows(layerHidden), out: rows(layerHidden), q: rows(q),
		k: rows(k), v: rows(k), at: rows(q), cos: rows(layerDim / 2), sin: rows(layerDim / 2)}
	m.attend = kernel.Attention{Heads: layerHeads, Scale: 0.3,
		KV: kernel.KVLayout{Heads: layerKVHeads, HeadDim: layerDim, Precision: kernel.PrecisionBF16}}
	m.kv = kernel.KV{BlockTiles: n, Tiles: 1}
	const blocks = (layerTokens + kernel.KVTokens - 1) / kernel.KVTokens
	m.kv.Memory = must1(d.AllocateKV(m.attend.KV, n*blocks))(t)
	m.kv.Sequences = []kernel.AttentionSequence{{Count: 1, Table: []int32{2, 0, 1}}}
	for range n {
		l := layer{norm: rows(layerHidden), q: upload(q, layerHidden), k: upload(k, layerHidden),
			v: upload(k, layerHidden), o: upload(layerHidden, q)}
		d.Write(l.norm, randomRows(rng, 1, layerHidden, false))
		l.network = kernel.FeedForwardPart{GateUp: upload(2*layerWidth, layerHidden),
			Down: upload(layerHidden, layerWidth), To: 1}
		m.all = append(m.all, l)
	}
	return m
}

// token takes a token at a position through the layers.
func (m *layers) token(t *testing.T, pos int) []float32 {
	t.Helper()
	rng, d := rand.New(rand.NewPCG(43, uint64(pos))), m.d
	d.Write(m.x, randomRows(rng, 1, layerHidden, false))
	d.Write(m.cos, randomRows(rng, 1, layerDim/2, false))
	d.Write(m.sin, randomRows(rng, 1, layerDim/2, false))
	m.kv.Sequences[0].Start = pos
	for i := range m.all {
		l := &m.all[i]
		d.Norm(m.h, m.x, l.norm, 1e-5)
		d.Mul(m.h, []kernel.Product{{Y: m.q, W: l.q}, {Y: m.k, W: l.k}, {Y: m.v, W: l.v}})
		d.Rotate(m.q, m.cos, m.sin, kernel.RotaryPairs)
		d.Rotate(m.k, m.cos, m.sin, kernel.RotaryPairs)
		m.kv.First = i
		if m.ahead {
			d.StartRead(m.at)
			d.StartRead(m.out)
		}
		d.Attend(&m.attend, m.at, m.q, m.k, m.v, &m.kv)
		d.Mul(m.at, []kernel.Product{{Y: m.out, W: l.o}})
		d.Add(m.x, m.out)
		d.Norm(m.h, m.x, l.norm, 1e-5)
		d.FeedForward(m.out, m.h, []kernel.FeedForwardPart{l.network})
		d.Add(m.x, m.out)
	}
	return slices.Clone(must1(d.Read(m.x))(t).Data)
}

// run compares tokens with a CPU's and returns how often each token called the driver.
func runLayers(t *testing.T, d *Device, f kernel.Format, n int) (calls []int) {
	t.Helper()
	return tokens(t, d, newLayers(t, d, f, n), newLayers(t, kernel.NewCPU(nil), f, n))
}

func tokens(t *testing.T, d *Device, gpu, cpu *layers) (calls []int) {
	t.Helper()
	for pos := range layerTokens {
		want := cpu.token(t, pos)
		var got []float32
		calls = append(calls, counted(t, func() { got = gpu.token(t, pos) }, "cu")...)
		if !slices.Equal(got, want) {
			t.Fatalf("token %d: other bytes than a CPU's", pos)
		}
	}
	return calls
}

// TestLayersAhead writes in all operations to rows that are on their way to the host.
func TestLayersAhead(t *testing.T) {
	for _, f := range []kernel.Format{kernel.WeightsF32, kernel.WeightsInt8} {
		d := openDevice(t)
		gpu := newLayers(t, d, f, 2)
		gpu.ahead = true
		tokens(t, d, gpu, newLayers(t, kernel.NewCPU(nil), f, 2))
	}
}

const manyLayers = 6

// TestGraphs counts calls of the driver: a layer whose launches came before is a graph.
func TestGraphs(t *testing.T) {
	for _, f := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsInt4} {
		d := openDevice(t)
		before := count(t, "cuGraphInstantiateWithFlags")
		calls := runLayers(t, d, f, manyLayers)
		t.Logf("%v: calls of the driver for each token, %d layers: %v", f, manyLayers, calls)
		made := count(t, "cuGraphInstantiateWithFlags") - before
		// A segment ends with each feed-forward network, so there is one more at the end.
		if last := calls[layerTokens-1]; last > 2*manyLayers+10 || made != manyLayers {
			t.Errorf("%v: %d calls for the last token, %d graphs", f, last, made)
		}
	}
}

// TestGraphsUpdated has room for fewer graphs than there are layers: they change from layer to
// layer.
func TestGraphsUpdated(t *testing.T) {
	d := openDevice(t)
	d.graphs.most = 2
	n := counted(t, func() { runLayers(t, d, kernel.WeightsInt8, manyLayers) },
		"cuGraphInstantiateWithFlags", "cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch")
	t.Logf("%d graphs made, %d nodes updated, %d launches of %d layers", n[0], n[1], n[2],
		layerTokens*manyLayers)
	if n[0] < 2 || n[0] > 2*2 || n[1] == 0 || n[2] < (layerTokens-3)*manyLayers ||
		len(d.graphs.all) > 2 {
		t.Errorf("%d graphs made, %d nodes updated, %d launches; %d are kept", n[0], n[1], n[2],
			len(d.graphs.all))
	}
}

// TestGraphsRefused goes on without graphs where they cannot be made, or launched.
func TestGraphsRefused(t *testing.T) {
	if !with(t, "STANDIN", "nographs") {
		return
	}
	testWithoutGraphs(t)
}

func TestGraphsNotLaunched(t *testing.T) {
	if !with(t, "STANDIN", "nolaunch") {
		return
	}
	testWithoutGraphs(t)
}

func testWithoutGraphs(t *testing.T) {
	d := openDevice(t)
	calls := runLayers(t, d, kernel.WeightsBF16, manyLayers)
	t.Logf("calls of the driver for each token, %d layers: %v", manyLayers, calls)
	if !d.graphs.off || d.Err() != nil || count(t, "cuGraphInstantiateWithFlags") != 1 {
		t.Errorf("graphs off: %t, the device's error %v", d.graphs.off, d.Err())
	}
}

// frames takes frames of experts through a device, several at a time, as a node does.
func frames(t *testing.T, d *Device, n int) {
	t.Helper()
	const hidden, slots = 32, 3
	rng := rand.New(rand.NewPCG(51, 52))
	e := newExperts(t, d, rng, 6, hidden, 24, kernel.WeightsBF16)
	var x, y [slots]kernel.Rows
	var want [slots]tensor.Rows
	var arrivals [slots]kernel.Arrival
	finish := func(i int) {
		if i%2 == 0 { // as a node does: others use the device meanwhile
			waited := make(chan error)
			go func() { waited <- arrivals[i%slots].Wait() }()
			d.Add(x[i%slots], x[i%slots])
			if err := <-waited; err != nil {
				t.Error(err)
			}
		}
		got, err := d.Read(y[i%slots])
		if err != nil || !slices.Equal(got.Data, want[i%slots].Data) {
			t.Fatalf("frame %d: %v, or other bytes than a CPU's", i, err)
		}
	}
	for i := range n {
		if i >= slots {
			finish(i - slots)
		}
		var rows [6]int
		for j := range rows {
			rows[j] = rng.IntN(4) * rng.IntN(2)
		}
		rows[i%6]++
		in := randomRows(rng, e.rows(rows[:]...), hidden, false)
		for _, r := range []*kernel.Rows{&x[i%slots], &y[i%slots]} {
			if err := kernel.Resize(d, r, in.N, hidden); err != nil {
				t.Fatal(err)
			}
		}
		want[i%slots] = e.want(in)
		d.Write(x[i%slots], in)
		clear(in.Data) // the caller's again
		d.FeedForward(y[i%slots], x[i%slots], e.parts)
		arrivals[i%slots] = d.StartRead(y[i%slots])
	}
	for i := n - slots; i < n; i++ {
		finish(i)
	}
}

// testFrames checks that a frame waits for the device once, for its own result.
func testFrames(t *testing.T) {
	d := openDevice(t)
	frames(t, d, 10) // memory grows meanwhile
	const n = 50
	var waits []int
	waits = counted(t, func() { frames(t, d, n) }, "cuEventSynchronize", "cuStreamSynchronize")
	uploads := 2 * 6 // of the experts, each by a wait for its own stream
	if waits[0] != n || waits[1] != uploads {
		t.Errorf("%d frames: %d waits for events and %d for streams, want %d and %d", n, waits[0],
			waits[1], n, uploads)
	}
}

func TestFrames(t *testing.T) { testFrames(t) }

// TestDropped takes memory of rows that nobody refers to any more, while a copy to them is still
// under way beside the computing stream.
func TestDropped(t *testing.T) {
	d := openDevice(t)
	const dim = 3000
	y := must1(d.Allocate(1, 8))(t)
	in := tensor.MakeRows(1, dim)
	for i := range in.Data {
		in.Data[i] = 1
	}
	for range 3 {
		x := must1(d.Allocate(1, dim))(t)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		d.StartRead(y)
		d.Write(x, in) // beside, since y is on its way
		x = kernel.Rows{}
		collect()
		z := must1(d.Allocate(1, dim))(t)
		if got := must1(d.Read(z))(t); !slices.Equal(got.Data, make([]float32, dim)) {
			t.Fatal("fresh rows have what was copied to those before")
		}
	}
}

// TestAheadBound checks that one result more than may be under way waits for the oldest one.
func TestAheadBound(t *testing.T) {
	d := openDevice(t)
	var x []kernel.Rows
	for i := range d.Ahead() + 1 {
		x = append(x, must1(d.Allocate(1, 8))(t))
		waits := counted(t, func() { d.StartRead(x[i]) }, "cuEventSynchronize", "cuStreamSynchronize")
		want := []int{i / d.Ahead(), 0}
		if !slices.Equal(waits, want) {
			t.Errorf("result %d: %d waits for events and streams, want %d", i, waits, want)
		}
	}
	for i := range x {
		must1(d.Read(x[i]))(t)
	}
}

// TestFrameCalls counts what a frame of 16 experts takes of the driver when it comes again: the
// rows, the panels, a graph, the result, and a wait.
func TestFrameCalls(t *testing.T) {
	d, rng := openDevice(t), rand.New(rand.NewPCG(53, 54))
	e := newExperts(t, d, rng, 16, 32, 24, kernel.WeightsBF16)
	var ones [16]int
	for i := range ones {
		ones[i] = 1
	}
	in := randomRows(rng, e.rows(ones[:]...), 32, false)
	want := e.want(in)
	x, y := must1(d.Allocate(16, 32))(t), must1(d.Allocate(16, 32))(t)
	for i := range 5 {
		calls := counted(t, func() {
			d.Write(x, in)
			d.FeedForward(y, x, e.parts)
			if got := must1(d.Read(y))(t); !slices.Equal(got.Data, want.Data) {
				t.Error("other bytes than a CPU's")
			}
		}, "cu", "cuStreamSynchronize")
		if i > 1 && !slices.Equal(calls, []int{5, 1}) {
			t.Errorf("frame %d: %d calls of the driver with %d waits, want 5 and 1", i, calls[0],
				calls[1])
		}
	}
}

// TestDeviceEarly and TestDeviceRandom run the copies of a device as early as events let
// them, which shows where it forgot to wait for what still uses the memory, and all work at
// random. In all other tests work is as late as can be.
func TestDeviceEarly(t *testing.T) {
	if with(t, "STANDIN", "early") {
		testStreams(t)
	}
}

func TestDeviceRandom(t *testing.T) {
	if with(t, "STANDIN", "random") {
		testStreams(t)
	}
}

func testStreams(t *testing.T) {
	for name, f := range map[string]func(t *testing.T){"frames": testFrames, "device": TestDevice,
		"staging": TestStaging} {
		t.Run(name, f)
	}
	t.Run("layers", func(t *testing.T) { runLayers(t, openDevice(t), kernel.WeightsInt8, 2) })
}

// TestStaging has more bytes under way than there is pinned memory, in pieces of all sizes.
func TestStaging(t *testing.T) {
	d := openDevice(t)
	const dim, rows = 1024, 1 << 12 // two blocks
	var x [4]kernel.Rows
	for i := range x {
		x[i] = must1(d.Allocate(rows, dim))(t)
	}
	in := tensor.MakeRows(rows, dim)
	for round := range 3 {
		for i := range x {
			for j := range in.Data {
				in.Data[j] = float32(round*1000 + i*100 + j%17)
			}
			n := rows >> (i + round)
			d.Write(x[i].Slice(0, n), in.Slice(0, n))
			clear(in.Data)
			d.Add(x[i].Slice(0, n), x[i].Slice(0, n))
			d.StartRead(x[i].Slice(0, n))
		}
		for i := range x {
			n := rows >> (i + round)
			got := must1(d.Read(x[i].Slice(0, n)))(t)
			for j, v := range got.Data {
				if want := 2 * float32(round*1000+i*100+j%17); v != want {
					t.Fatal(fmt.Sprintf("round %d, rows %d, element %d: %g, want %g", round, i, j, v, want))
				}
			}
		}
	}
}
