//go:build cuda && linux

package cuda

import (
	"errors"
	"hash/maphash"
	"runtime"
	"slices"
	"unsafe"
)

const (
	// fewestNodes is how many launches are worth a graph.
	fewestNodes = 3
	// mostGraphs bounds the graphs that are kept, mostSeen the launches that are remembered.
	mostGraphs = 256
	mostSeen   = 4096
)

// graph is launches, one after the other, that the driver makes at one call.
type graph struct {
	launches    []launched
	nodes       []uintptr
	graph, exec uintptr
	key         uint64
	used        uint64 // the clock when it was launched last
}

// graphs are those of launches that came at least twice with the same arguments, as those of
// a layer do from token to token. Whatever goes wrong with one, the device goes on without.
type graphs struct {
	off   bool
	most  int // mostGraphs, but in tests
	seed  maphash.Seed
	all   map[uint64]*graph
	seen  map[uint64]struct{}
	clock uint64
}

// nodeList is what a kernel's launch is described by: the driver's
// CUDA_KERNEL_NODE_PARAMS_v2, and the arguments.
type nodeList struct {
	function               uintptr
	gridX, gridY, gridZ    uint32
	blockX, blockY, blockZ uint32
	sharedBytes            uint32
	arguments              *[maxArguments]*uint64
	extra, kernel, context uintptr
	list                   launchList
}

// set describes a launch. The list is kept in place.
func (n *nodeList) set(d *Device, l *launched) {
	k := d.kernels[l.kernel]
	*n = nodeList{function: k.handle, gridX: l.grid.X, gridY: l.grid.Y, gridZ: 1,
		blockX: l.grid.Threads, blockY: 1, blockZ: 1, sharedBytes: uint32(k.sharedBytes)}
	n.list.set(l.arguments[:])
	n.arguments = &n.list.pointers
}

// run makes launches, as a graph if they are one.
func (s *graphs) run(d *Device, launches []launched) error {
	if g := s.of(d, launches); g != nil {
		err := d.c.call(cuGraphLaunch, g.exec, d.c.stream)
		if err == nil || errors.Is(err, ErrLost) {
			return err
		}
		s.off = true
	}
	for i := range launches {
		l := &launches[i]
		if err := d.kernels[l.kernel].launch(&d.list, l.grid, l.arguments[:]); err != nil {
			return err
		}
	}
	return nil
}

// of returns the graph of launches; nil if they are to go by themselves.
func (s *graphs) of(d *Device, launches []launched) *graph {
	if s.off || len(launches) < fewestNodes {
		return nil
	}
	if s.all == nil {
		if s.seed = maphash.MakeSeed(); s.most == 0 {
			s.most = mostGraphs
		}
		s.all, s.seen = make(map[uint64]*graph), make(map[uint64]struct{})
	}
	s.clock++
	key := maphash.Bytes(s.seed, memoryOf(launches))
	g := s.all[key]
	if g == nil && s.again(key) {
		var err error
		if g, err = s.add(d, key, launches); err != nil {
			s.off = true
			return nil
		}
	}
	if g == nil || !slices.Equal(g.launches, launches) {
		return nil
	}
	g.used = s.clock
	return g
}

// again reports whether launches were seen before, and remembers them.
func (s *graphs) again(key uint64) bool {
	_, seen := s.seen[key]
	if len(s.seen) >= mostSeen {
		clear(s.seen)
	}
	s.seen[key] = struct{}{}
	return seen
}

// add makes a graph of launches, or of one of the same kernels that was not used for long.
func (s *graphs) add(d *Device, key uint64, launches []launched) (*graph, error) {
	var alike, oldest *graph
	for _, g := range s.all {
		if oldest == nil || g.used < oldest.used {
			oldest = g
		}
		if (alike == nil || g.used < alike.used) && sameKernels(g.launches, launches) {
			alike = g
		}
	}
	full := len(s.all) >= s.most
	if alike != nil && (full || s.clock-alike.used > uint64(s.most)) {
		delete(s.all, alike.key)
		if err := alike.update(d, launches); err != nil {
			alike.destroy(d)
			return nil, err
		}
		alike.key, s.all[key] = key, alike
		return alike, nil
	}
	if full {
		delete(s.all, oldest.key)
		oldest.destroy(d)
	}
	g := &graph{key: key}
	if err := g.build(d, launches); err != nil {
		g.destroy(d)
		return nil, err
	}
	s.all[key] = g
	return g, nil
}

func sameKernels(a, b []launched) bool {
	return slices.EqualFunc(a, b, func(x, y launched) bool { return x.kernel == y.kernel })
}

// build makes a graph whose nodes are launches, each after the one before.
func (g *graph) build(d *Device, launches []launched) error {
	g.launches = slices.Clone(launches)
	g.nodes = make([]uintptr, len(launches))
	if err := d.c.call(cuGraphCreate, uintptr(unsafe.Pointer(&g.graph)), 0); err != nil {
		return err
	}
	var pin runtime.Pinner
	pin.Pin(&d.list)
	defer pin.Unpin()
	for i := range launches {
		d.list.set(d, &launches[i])
		before, count := unsafe.Pointer(nil), uintptr(0)
		if i > 0 {
			before, count = unsafe.Pointer(&g.nodes[i-1]), 1
		}
		err := d.c.call(cuGraphAddKernel, uintptr(unsafe.Pointer(&g.nodes[i])), g.graph,
			uintptr(before), count, uintptr(unsafe.Pointer(&d.list)))
		if err != nil {
			return err
		}
	}
	return d.c.call(cuGraphInstantiate, uintptr(unsafe.Pointer(&g.exec)), g.graph, 0)
}

// update changes the nodes whose launches are others. What was launched before stays as it is.
func (g *graph) update(d *Device, launches []launched) error {
	var pin runtime.Pinner
	pin.Pin(&d.list)
	defer pin.Unpin()
	for i := range launches {
		if g.launches[i] == launches[i] {
			continue
		}
		d.list.set(d, &launches[i])
		err := d.c.call(cuGraphSetKernel, g.exec, g.nodes[i], uintptr(unsafe.Pointer(&d.list)))
		if err != nil {
			return err
		}
		g.launches[i] = launches[i]
	}
	return nil
}

func (g *graph) destroy(d *Device) {
	if g.exec != 0 {
		_ = d.c.call(cuGraphExecDestroy, g.exec) // of a device that is lost nothing is to be had
	}
	if g.graph != 0 {
		_ = d.c.call(cuGraphDestroy, g.graph) // as above
	}
}

func (s *graphs) close(d *Device) {
	for _, g := range s.all {
		g.destroy(d)
	}
	clear(s.all)
}
