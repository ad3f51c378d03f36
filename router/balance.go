package router

import "slices"

// balance distributes the experts of one round over the nodes that hold them, so that the
// node that finishes last finishes early. Where all nodes are equally fast and idle and
// experts have few rows, that is the least possible largest number of distinct experts of
// a node. It is a plain value that keeps its memory from round to round.
type balance struct {
	nodes   []balanceNode
	items   []balanceItem
	options []int32 // nodes, of all items one after the other
	order   []int32 // of items for the first distribution
	queue   []int32 // of nodes, for shift
}

// balanceNode is a node with what it is known for: it finishes after base and, for each
// item, each times the item's work.
type balanceNode struct {
	base, each float64
	finish     float64
	items      int
	// For shift: the item that is to come, or none, and whether the node was seen.
	incoming int32
	seen     bool
}

// balanceItem is one expert's rows.
type balanceItem struct {
	work        float64
	first, last int32 // its options
	on          int32 // node, of all nodes
}

const noItem = -1

// reset begins a round with so many nodes; their base and each are the caller's to set.
func (b *balance) reset(nodes int) {
	b.nodes = slices.Grow(b.nodes[:0], nodes)[:nodes]
	clear(b.nodes)
	b.items, b.options = b.items[:0], b.options[:0]
}

// item begins an item; its options follow, at least one. Of equally good ones the first
// is taken.
func (b *balance) item(work float64) {
	n := int32(len(b.options))
	b.items = append(b.items, balanceItem{work: work, first: n, last: n})
}

// option adds a node to the options of the last item.
func (b *balance) option(node int) {
	b.options = append(b.options, int32(node))
	b.items[len(b.items)-1].last++
}

// solve puts each item on one of its options.
func (b *balance) solve() {
	for i := range b.nodes {
		b.nodes[i].finish = b.nodes[i].base
	}
	b.order = b.order[:0]
	for i := range b.items {
		b.order = append(b.order, int32(i))
	}
	// First what has no choice, then the largest.
	slices.SortStableFunc(b.order, func(x, y int32) int {
		i, j := &b.items[x], &b.items[y]
		if a, c := i.last-i.first, j.last-j.first; a != c && (a == 1 || c == 1) {
			return int(a - c)
		}
		switch {
		case i.work > j.work:
			return -1
		case i.work < j.work:
			return 1
		}
		return 0
	})
	for _, i := range b.order {
		b.put(i, b.best(i))
	}
	for range len(b.items) {
		if !b.shift() {
			return
		}
	}
}

// best is the option on which an item would finish first.
func (b *balance) best(i int32) int32 {
	item := &b.items[i]
	on := b.options[item.first]
	least := b.nodes[on].finish + b.cost(i, on)
	for _, o := range b.options[item.first+1 : item.last] {
		if f := b.nodes[o].finish + b.cost(i, o); f < least {
			on, least = o, f
		}
	}
	return on
}

func (b *balance) cost(item, node int32) float64 { return b.nodes[node].each * b.items[item].work }

func (b *balance) put(item, node int32) {
	n := &b.nodes[node]
	n.finish += b.cost(item, node)
	n.items++
	b.items[item].on = node
}

// shift makes the node that finishes last finish earlier, and no other as late as it did:
// one of its items goes to another node, which may give one of its own to a third in turn,
// and so on. It tells whether it found a way. Where all items cost the same, there is one
// unless the largest finish is the least possible.
func (b *balance) shift() bool {
	last, limit := int32(noItem), 0.
	for i := range b.nodes {
		n := &b.nodes[i]
		n.seen, n.incoming = false, noItem
		if n.items > 0 && (last == noItem || n.finish > limit) {
			last, limit = int32(i), n.finish
		}
	}
	if last == noItem {
		return false
	}
	limit -= limit * 1e-9 // what is less by rounding alone is not less
	b.nodes[last].seen = true
	b.queue = append(b.queue[:0], last)
	for head := 0; head < len(b.queue); head++ {
		from := b.queue[head]
		for i := range b.items {
			if item := &b.items[i]; item.on == from && b.fits(from, int32(i), limit) {
				if b.move(int32(i), limit) {
					return true
				}
			}
		}
	}
	return false
}

// fits tells whether a node that gives an item for the one that is to come is early enough.
func (b *balance) fits(node, gives int32, limit float64) bool {
	n := &b.nodes[node]
	return n.incoming == noItem ||
		n.finish+b.cost(n.incoming, node)-b.cost(gives, node) < limit
}

// move looks for a node that can take an item. If one has room, the items on the way to it
// move; the others are looked at later.
func (b *balance) move(i int32, limit float64) bool {
	item := &b.items[i]
	for _, to := range b.options[item.first:item.last] {
		n := &b.nodes[to]
		if n.seen {
			continue
		}
		n.seen, n.incoming = true, i
		if n.finish+b.cost(i, to) >= limit {
			b.queue = append(b.queue, to)
			continue
		}
		for at := to; b.nodes[at].incoming != noItem; {
			moved := b.nodes[at].incoming
			from := b.items[moved].on
			b.nodes[from].finish -= b.cost(moved, from)
			b.nodes[from].items--
			b.put(moved, at)
			at = from
		}
		return true
	}
	return false
}

// largest is when the last node that has items finishes.
func (b *balance) largest() float64 {
	out := 0.
	for i := range b.nodes {
		if n := &b.nodes[i]; n.items > 0 {
			out = max(out, n.finish)
		}
	}
	return out
}
