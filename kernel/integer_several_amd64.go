package kernel

import "drover/tensor"

// severalPanels is a product of some outputs with several panels of rows. While all panels
// are multiplied with a part of the weights, each fetches its share of the next part:
// memory is read as evenly as it can be. The weights of a part, the next and a slice of all
// rows stay in the second cache, and so do the sums of a chunk of outputs. Many panels fetch
// their inputs into the first, ahead of use: in the first part of a slice they come from afar.
type severalPanels struct {
	m      *Matrix
	y      tensor.Rows
	a      *Activations
	tiles  integerTiles
	lo, hi int // outputs
	unit   int // bytes of a group of a block
	// from and to are the panels that are multiplied together, each in slices of groups: whole
	// spans, but for the last. Their rows begin with first; the first longer panels have rows
	// and one, others rows.
	from, to, groups    int
	first, rows, longer int
	// step is the distance of the lines that a panel fetches, and share that of panels.
	step, share int
	// fetched says that something fetched the weights of the part, ahead that panels fetch
	// inputs.
	fetched, ahead bool
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
	// groupsAhead is by how many groups inputs are fetched ahead.
	groupsAhead = 8
	// aheadPanels is the least number of panels that fetch inputs. With fewer, all wait for
	// weights, and each fetch that is under way keeps another one waiting.
	aheadPanels = 6
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
		s.turn(i+1 < turns)
	}
}

// turn multiplies panels with all weights. Unless it is the last turn, another begins with
// the same weights then.
func (s *severalPanels) turn(another bool) {
	a := s.a
	first, _ := a.panel(s.from)
	last, rows := a.panel(s.to - 1)
	s.first, s.rows = first, rows
	rows += last - first
	panels := s.to - s.from
	s.longer = rows - panels*s.rows
	slices := (a.groups*(rows*a.rowWords()*4+4*s.unit) + cachedBytes - 1) / cachedBytes
	s.groups = (a.groups + slices - 1) / slices
	s.groups = min((s.groups+spanGroups-1)/spanGroups*spanGroups, a.groups)
	s.step = s.pace(panels)
	s.share = s.groups * s.unit / panels
	s.ahead = panels >= aheadPanels
	begin := part{s.lo, s.lo, 0}
	for here := begin; here.n < s.hi; s.fetched = true {
		next := s.after(here)
		fetch := next
		if next.n >= s.hi && another {
			fetch = begin
		}
		s.part(here, fetch)
		here = next
	}
}

// pace is the distance of the lines that each of so many panels fetches of the next part.
func (s *severalPanels) pace(panels int) int {
	return min((s.unit*partOutputs/blockRows/fetches+panels-1)/panels, lineBytes)
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

// part multiplies the panels with the part here. Where groups are few, a division for each
// of them would take a fifth of the time. If nothing fetched the part, the first panel reads
// it from memory as if it were alone, and the others fetch the next part.
func (s *severalPanels) part(here, next part) {
	m, a := s.m, s.a
	c := integerCall{
		outputs: min(partOutputs, s.hi-here.n), stride: m.blockBytes,
		w:      m.block(here.n)[here.g*s.unit:],
		groups: min(s.groups, a.groups-here.g), add: here.g,
	}
	if c.outputs <= blockRows { // a tile that finds both blocks in the same place
		c.stride = 0
	}
	c.next = c.w
	share := 0
	if next.n < s.hi {
		c.next, c.step, share = m.block(next.n)[next.g*s.unit:], s.step, s.share
		if panels := s.to - s.from; !s.fetched {
			c.step = s.pace(panels - 1)
			share = min(s.groups, a.groups-next.g) * s.unit / (panels - 1)
		} else if a.groups-next.g < s.groups {
			share = (a.groups - next.g) * s.unit / panels
		}
	}
	row, words := s.first, a.rowWords()
	for p := range s.to - s.from {
		rows := s.rows
		if p < s.longer {
			rows++
		}
		c.x = a.packed[(row*a.groups+here.g*rows)*words:]
		if s.ahead {
			c.ahead = groupsAhead * rows * words * 4
		}
		tiles := s.tiles.several[rows-fewest:]
		if p == 0 && !s.fetched {
			tiles = s.tiles.alone[rows-1:]
		}
		m.mulIntegerTile(s.y.Data[row*s.y.Dim+here.n:], &c, tiles[0])
		if p > 0 || s.fetched {
			c.next = c.next[share:]
		}
		row += rows
	}
}
