package sim

import (
	"fmt"
	"time"

	"drover/cluster"
)

// begin makes a fault take effect.
func (w *world) begin(f Fault) {
	switch f.Point {
	case HoleTo, HoleFrom, HoleBoth, Delay, SlowLink, Reset, CorruptTo, CorruptFrom, LoseTo, LoseFrom:
		w.beginLink(f, w.node(f).link)
	case Apart, ApartDelay:
		w.fired.fire(f.Point)
		w.part(f, 1)
	case NodeKill, NodePowerOff, NodeGone, NodeLeaves, NodeHang, NodeDraining:
		w.beginLife(f, w.node(f))
	case NodeSlow, NodeForgets, NodeOverloaded, NodePanic, NodeWrong, LoadError, LoadFull,
		LoadSlow:
		w.change(f, w.node(f), 1)
	case NodeJoins:
		w.addNode(allOfThem, false).start()
		w.fired.fire(f.Point)
	case NodeStranger:
		w.addNode(allOfThem, true).start()
		w.fired.fire(f.Point)
	case StoreAway, StoreSlow, StoreCut, StoreRefuses, StoreLoses, StoreBreaks, StoreCompacted,
		StoreReplaced, LeaseLost:
		w.beginStore(f)
	case PlannerPaused, PlannerKilled, LoadShift, GossipLies, LocalError, FalseWord:
		w.beginProcess(f)
	case ClientGone: // the request does it
	default:
		panic(fmt.Sprintf("sim: nothing injects %s", f.Point))
	}
}

// finish ends a fault.
func (w *world) finish(f Fault) {
	switch f.Point {
	case HoleTo, HoleFrom, HoleBoth, Delay, SlowLink, CorruptTo, CorruptFrom, LoseTo, LoseFrom:
		w.finishLink(f, w.node(f).link)
	case Apart, ApartDelay:
		w.part(f, -1)
	case NodeKill, NodePowerOff, NodeHang, NodeDraining:
		w.finishLife(f, w.node(f))
	case NodeSlow, NodeForgets, NodeOverloaded, NodePanic, NodeWrong, LoadError, LoadFull,
		LoadSlow:
		w.change(f, w.node(f), -1)
	case StoreAway, StoreSlow, StoreCut, StoreRefuses, StoreLoses:
		w.finishStore(f)
	case PlannerPaused, PlannerKilled, LoadShift, GossipLies:
		w.finishProcess(f)
	case FalseWord:
		w.node(f).acquit()
	}
}

// judge is the coordinator to which alone a fault of a node shows.
func (w *world) judge(f Fault) int { return f.Count % w.scenario.Coordinators }

// part adds a fault of the way between one coordinator and a node, or takes it away.
func (w *world) part(f Fault, by int) {
	l, from := w.node(f).link, w.judge(f)
	l.change(func() {
		if f.Point == Apart {
			l.apart[from] += by
		} else {
			l.far[from] += time.Duration(by*f.Count) * 20 * time.Millisecond
		}
	})
}

// accused notes that the present life of a node is misjudged. It is false if it has none.
func (n *node) accused() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return false
	}
	n.misjudged, n.spoilt = n.life.epoch, true
	return true
}

// acquit starts a node again that was misjudged, unless something else has done so: nothing
// less ends a quarantine.
func (n *node) acquit() {
	n.mu.Lock()
	again := n.life != nil && n.life.epoch == n.misjudged && !n.gone
	n.mu.Unlock()
	if again {
		n.end(false)
		n.start()
	}
}

// node is a fault's target.
func (w *world) node(f Fault) *node { return w.allNodes()[f.Target%w.scenario.Nodes] }

func (w *world) beginLink(f Fault, l *link) {
	switch f.Point {
	case Reset:
		if l.reset(false) > 0 {
			w.fired.fire(f.Point)
		}
		return
	case HoleTo, HoleFrom, HoleBoth, Delay, SlowLink:
		w.fired.fire(f.Point)
	}
	l.change(func() { l.edit(f, 1) })
}

func (w *world) finishLink(f Fault, l *link) { l.change(func() { l.edit(f, -1) }) }

// edit adds a fault to a link, or takes it away. The caller holds mu.
func (l *link) edit(f Fault, by int) {
	switch f.Point {
	case HoleTo:
		l.stalled[toNode] += by
	case HoleFrom:
		l.stalled[fromNode] += by
	case HoleBoth:
		l.stalled[toNode] += by
		l.stalled[fromNode] += by
	case Delay:
		l.delay += time.Duration(by*f.Count) * time.Millisecond
	case SlowLink:
		l.slow += by
	case CorruptTo:
		l.spoil[toNode] = max(by, 0) * f.Count
	case CorruptFrom:
		l.spoil[fromNode] = max(by, 0) * f.Count
	case LoseTo:
		l.lose[toNode] = max(by, 0) * f.Count
	case LoseFrom:
		l.lose[fromNode] = max(by, 0) * f.Count
	}
}

func (w *world) beginLife(f Fault, n *node) {
	l := n.current()
	if f.Point == NodeHang {
		n.mu.Lock()
		n.hung = append(n.hung, l) // which may be none
		n.mu.Unlock()
	}
	if l == nil {
		return
	}
	w.fired.fire(f.Point)
	switch f.Point {
	case NodeKill, NodeGone:
		n.end(false)
	case NodePowerOff:
		n.end(true)
	case NodeLeaves:
		n.leave()
	case NodeHang:
		l.gate.pause()
		n.link.change(func() { n.link.edit(Fault{Point: HoleBoth}, 1) })
	case NodeDraining:
		l.server.Drain()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = n.gone || f.Point == NodeGone || f.Point == NodeLeaves
	n.spoilt = n.spoilt || f.Point == NodeDraining
}

func (w *world) finishLife(f Fault, n *node) {
	n.mu.Lock()
	l, gone := n.life, n.gone
	if f.Point == NodeHang {
		l, n.hung = n.hung[0], n.hung[1:] // it may be leaving or dead by now
	}
	n.mu.Unlock()
	switch {
	case f.Point == NodeHang && l == nil:
	case f.Point == NodeHang:
		n.link.change(func() { n.link.edit(Fault{Point: HoleBoth}, -1) })
		l.gate.resume()
	case gone:
	case f.Point == NodeDraining && l != nil:
		n.end(false)
		n.start()
	case l == nil:
		w.fired.fire(NodeReturns)
		n.link.reset(false) // what the machine does not know any more
		n.start()
	}
}

// change sets or ends a fault of what a node computes and loads.
func (w *world) change(f Fault, n *node, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch f.Point {
	case NodeSlow:
		if n.slow = 1; by > 0 {
			n.slow = float64(f.Count)
		}
	case NodeForgets:
		n.forgets += by
	case NodeOverloaded:
		n.overloaded += by
	case NodePanic:
		n.panics = max(by, 0) * f.Count
	case NodeWrong:
		n.wrong += by
		n.spoilt = true
		if by < 0 { // whoever watches over the node starts it again
			w.running.Go(func() {
				n.end(false)
				n.start()
			})
		}
	case LoadError:
		n.loadFails = max(by, 0) * f.Count
	case LoadFull:
		n.full += by
	case LoadSlow:
		if n.loadTime = 0; by > 0 {
			n.loadTime = time.Duration(f.Count) * 100 * time.Millisecond
		}
	}
}

// clients are the ways to the store of a fault's target.
func (w *world) clients(f Fault) (clients []*storeClient, owner string) {
	if f.Target < w.scenario.Nodes {
		if l := w.node(f).current(); l != nil {
			return []*storeClient{l.store}, l.node.id
		}
		return nil, ""
	}
	if p := w.allProcesses()[f.Target-w.scenario.Nodes]; p != nil {
		return []*storeClient{p.plans, p.views}, p.id
	}
	return nil, ""
}

func (w *world) beginStore(f Fault) {
	a := w.store
	clients, owner := w.clients(f)
	switch f.Point {
	case StoreAway:
		a.setAway(1)
		w.fired.fire(f.Point)
	case StoreSlow:
		a.setSlow(time.Duration(f.Count) * 300 * time.Millisecond)
	case StoreBreaks:
		if a.breakWatches() > 0 {
			w.fired.fire(f.Point)
		}
	case StoreCompacted:
		a.memory.Load().Compact()
		if a.breakWatches() > 0 {
			w.fired.fire(f.Point)
		}
	case StoreReplaced:
		a.replace()
		w.fired.fire(f.Point)
	case LeaseLost:
		if a.endLease(owner) > 0 {
			w.fired.fire(f.Point)
		}
	}
	for _, c := range clients {
		c.edit(f, 1)
	}
}

func (w *world) finishStore(f Fault) {
	switch f.Point {
	case StoreAway:
		w.store.setAway(-1)
	case StoreSlow:
		w.store.setSlow(0)
	case StoreCut, StoreRefuses, StoreLoses:
		clients, _ := w.clients(f)
		for _, c := range clients {
			c.edit(f, -1)
		}
	}
}

// edit adds a fault to a process's way to the store, or takes it away.
func (c *storeClient) edit(f Fault, by int) {
	c.fault.Lock()
	defer c.fault.Unlock()
	switch f.Point {
	case StoreCut:
		c.cut = max(c.cut+by, 0) // a process that started meanwhile had no such fault
		close(c.mended)
		c.mended = make(chan struct{})
	case StoreRefuses:
		c.refuse = max(by, 0) * f.Count
	case StoreLoses:
		c.lost = max(by, 0) * f.Count
	}
}

func (w *world) beginProcess(f Fault) {
	i := f.Target % w.scenario.Coordinators
	if f.Point == FalseWord {
		i = w.judge(f)
	}
	p := w.allProcesses()[i]
	if p == nil {
		return
	}
	switch f.Point {
	case FalseWord:
		if n := w.node(f); n.accused() {
			p.accuser.Report(cluster.Finding{NodeID: n.id, Epoch: n.misjudged,
				Layer: moeLayers[0], Expert: f.Count, Agreed: f.Count > 2})
			w.fired.fire(f.Point)
		}
	case PlannerPaused:
		p.gate.pause()
		w.fired.fire(f.Point)
	case PlannerKilled:
		w.setProcess(i, nil)
		p.end()
		w.fired.fire(f.Point)
	case LoadShift:
		p.hot.Store(int64(f.Count))
	case GossipLies:
		if l := w.node(f).current(); l != nil {
			p.watcher.SetSuspect(l.node.id, l.epoch, true)
			w.fired.fire(f.Point)
		}
	case LocalError:
		p.fails.Store(int64(f.Count))
	}
}

func (w *world) finishProcess(f Fault) {
	i := f.Target % w.scenario.Coordinators
	p := w.allProcesses()[i]
	switch {
	case f.Point == PlannerKilled && p == nil:
		w.starts++
		w.setProcess(i, w.startProcess(i, fmt.Sprintf("c%d-%d", i, w.starts)))
	case p == nil:
	case f.Point == PlannerPaused:
		p.gate.resume()
	case f.Point == LoadShift:
		p.hot.Store(0)
	case f.Point == GossipLies:
		for _, n := range w.allNodes() {
			if l := n.current(); l != nil {
				p.watcher.SetSuspect(n.id, l.epoch, false)
			}
		}
	}
}
