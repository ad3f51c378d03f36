package kernel

import "drover/tensor"

// severalPanels is a product of some outputs with several panels of rows. While all panels
// are multiplied with a part of the weights, each fetches its share of the next part:
// memory is read as evenly as it can be. The weights of a part, the next and a slice of all
// rows stay in the second cache, and so do the sums of a chunk of outputs.
type severalPanels struct {
	m      *Matrix
	y      tensor.Rows
	a      *Activations
	tiles  []integerTile
	lo, hi int // outputs
	unit   int // bytes of a group of a block
	// from and to are the panels that are multiplied together, each in slices of groups. Step
	// is the distance of the lines that a panel fetches.
	from, to, groups, step int
}

const (
	// partOutputs is the outputs of a part, as many as a tile has.
	partOutputs = 2 * blockRows
	// mostPanels is how many are multiplied together, 64 rows: for so many, reading the
	// weights again costs less than shorter slices.
	mostPanels = 11
	// chunkOutputs is the outputs whose slices follow each other.
	chunkOutputs = 512
	// fetches is how often a tile fetches in a group.
	fetches = 16
	// cachedBytes is the size of a slice of all rows and two parts: second caches of
	// processors with VNNI have 1 MiB or more.
	cachedBytes = 704 << 10
)

// part is a part of the weights: outputs from n on, in the chunk from chunk on, and the
// groups from g on.
type part struct{ chunk, n, g int }

// mul multiplies the panels in turns of some, so that their slices are long.
func (s *severalPanels) mul() {
	s.unit = s.m.blockBytes / s.a.groups
	turns := (s.a.panels + mostPanels - 1) / mostPanels
	for i := range turns {
		s.from, s.to = i*s.a.panels/turns, (i+1)*s.a.panels/turns
		s.turn()
	}
}

func (s *severalPanels) turn() {
	first, _ := s.a.panel(s.from)
	last, rows := s.a.panel(s.to - 1)
	rows += last - first
	slices := (s.a.groups*(rows*s.a.rowWords()*4+4*s.unit) + cachedBytes - 1) / cachedBytes
	s.groups = (s.a.groups + slices - 1) / slices
	panels := s.to - s.from
	s.step = min((s.unit*partOutputs/blockRows/fetches+panels-1)/panels, lineBytes)
	here := part{s.lo, s.lo, 0}
	for here.n < s.hi {
		next := s.after(here)
		for p := s.from; p < s.to; p++ {
			s.panel(p, here, next)
		}
		here = next
	}
}

// after is the next part; behind the last, n is hi or more.
func (s *severalPanels) after(here part) part {
	next := part{here.chunk, here.n + partOutputs, here.g}
	if next.n < min(here.chunk+chunkOutputs, s.hi) {
		return next
	}
	next.n, next.g = here.chunk, here.g+s.groups
	if next.g < s.a.groups {
		return next
	}
	return part{here.chunk + chunkOutputs, here.chunk + chunkOutputs, 0}
}

// panel multiplies a panel with the part here.
func (s *severalPanels) panel(panel int, here, next part) {
	m, a := s.m, s.a
	first, rows := a.panel(panel)
	c := integerCall{
		outputs: min(partOutputs, s.hi-here.n), stride: m.blockBytes,
		w:      m.block(here.n)[here.g*s.unit:],
		x:      a.packed[(first*a.groups+here.g*rows)*a.rowWords():],
		groups: min(s.groups, a.groups-here.g), add: here.g,
	}
	if c.outputs <= blockRows { // a tile that finds both blocks in the same place
		c.stride = 0
	}
	c.next = c.w
	if next.n < s.hi {
		groups := min(s.groups, a.groups-next.g)
		c.next = m.block(next.n)[(next.g+(panel-s.from)*groups/(s.to-s.from))*s.unit:]
		c.step = s.step
	}
	m.mulIntegerTile(s.y.Data[first*s.y.Dim+here.n:], &c, s.tiles[rows-fewest])
}
