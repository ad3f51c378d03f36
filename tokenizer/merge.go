package tokenizer

import (
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// merger is the byte-pair encoding: it writes a piece of text as symbols and joins the pair of
// neighbours whose merge comes first in the list, the leftmost of these, until none is left.
type merger struct {
	pairs     pairTable
	results   []int32          // by rank: what the merge makes
	words     map[string]int32 // the model's tokens by the text they stand for, no special ones
	whole     bool             // a piece that is a word is taken whole, whatever the merges say
	byteLevel bool             // symbols are bytes, else characters
	single    [256]int32       // with byteLevel: the symbol of a byte, or -1
	fallback  [256]int32       // else: the symbol <0xAB> of a byte, or -1
	unknown   int32            // what stands for a symbol that the vocabulary lacks, or -1
	fuse      bool             // neighbouring unknown symbols count as one
	joints    *joints          // where pieces may be cut before merging; nil means nowhere
	cache     pieceCache
}

// noRank says that a pair has no merge.
const noRank = math.MaxUint32

// fill prepares the merger from the file.
func (m *merger) fill(f *tokenizerFile, v *vocab, words map[string]int64, byteLevel bool) error {
	m.byteLevel, m.whole, m.fuse = byteLevel, f.Model.IgnoreMerges, f.Model.FuseUnk
	m.cache.seed = maphash.MakeSeed()
	m.words = make(map[string]int32, len(words))
	for token, id := range words {
		if v.flags[id]&flagSpecial != 0 {
			continue
		}
		if byteLevel {
			var ok bool
			if token, ok = fromAlphabet(token); !ok {
				continue
			}
		}
		m.words[token] = int32(id)
	}
	full := m.fillBytes(f.Model.ByteFallback)
	m.unknown = -1
	if u := f.Model.UnkToken; u != nil {
		id, ok := words[*u]
		if !ok {
			return fmt.Errorf("model.unk_token: %.60q is not in model.vocab", *u)
		}
		m.unknown = int32(id)
	}
	merges, err := parseMerges(f.Model.Merges)
	if err != nil {
		return err
	}
	if err := m.fillPairs(merges, v, words); err != nil {
		return err
	}
	if !byteLevel && !m.whole && (full || m.unknown < 0) {
		m.joints = newJoints(merges)
	}
	return nil
}

// fillBytes looks up the symbols of bytes; full means that all have one.
func (m *merger) fillBytes(fallback bool) (full bool) {
	full = true
	for b := range 256 {
		m.single[b], m.fallback[b] = -1, -1
		if id, ok := m.words[string([]byte{byte(b)})]; ok && m.byteLevel {
			m.single[b] = id
		}
		if id, ok := m.words[fmt.Sprintf("<0x%02X>", b)]; ok && fallback && !m.byteLevel {
			m.fallback[b] = id
		} else {
			full = false
		}
	}
	return full
}

// fillPairs enters the merges. Those that make a special token are left out (R1).
func (m *merger) fillPairs(merges [][]string, v *vocab, words map[string]int64) error {
	m.pairs = newPairTable(len(merges))
	m.results = make([]int32, len(merges))
	for rank, pair := range merges {
		left, okLeft := words[pair[0]]
		right, okRight := words[pair[1]]
		made, ok := words[pair[0]+pair[1]]
		if !ok || !okLeft || !okRight {
			missing := pair[0] + pair[1]
			if !okLeft {
				missing = pair[0]
			} else if !okRight {
				missing = pair[1]
			}
			return fmt.Errorf("model.merges[%d]: %.60q with %.60q: %.60q is not in model.vocab",
				rank, pair[0], pair[1], missing)
		}
		m.results[rank] = int32(made)
		if v.flags[made]&flagSpecial == 0 {
			m.pairs.set(int32(left), int32(right), uint32(rank))
		}
	}
	return nil
}

// symbols appends the first symbols of a piece.
func (m *merger) symbols(dst []int32, s string) []int32 {
	if m.byteLevel {
		for i := range len(s) {
			if id := m.single[s[i]]; id >= 0 {
				dst = append(dst, id)
			} else if m.unknown >= 0 {
				dst = m.appendUnknown(dst)
			}
		}
		return dst
	}
	for i := 0; i < len(s); {
		_, w := utf8.DecodeRuneInString(s[i:])
		char := s[i : i+w]
		i += w
		if id, ok := m.words[char]; ok {
			dst = append(dst, id)
		} else if m.canFallBack(char) {
			for k := range len(char) {
				dst = append(dst, m.fallback[char[k]])
			}
		} else if m.unknown >= 0 {
			dst = m.appendUnknown(dst)
		}
	}
	return dst
}

func (m *merger) appendUnknown(dst []int32) []int32 {
	if n := len(dst); m.fuse && n > 0 && dst[n-1] == m.unknown {
		return dst
	}
	return append(dst, m.unknown)
}

// canFallBack says whether each byte of a character has a symbol.
func (m *merger) canFallBack(char string) bool {
	for k := range len(char) {
		if m.fallback[char[k]] < 0 {
			return false
		}
	}
	return true
}

// shortPiece is the number of symbols up to which a plain search for the best pair is faster
// than a heap.
const shortPiece = 40

// merge joins symbols in place and returns what is left of them.
func (m *merger) merge(ids []int32, w *workspace) []int32 {
	if len(ids) < 2 {
		return ids
	}
	if len(ids) > shortPiece {
		return m.mergeLong(ids, w)
	}
	var ranks [shortPiece]uint32 // of each symbol with the next one
	n := len(ids) - 1
	for i := range n {
		ranks[i] = m.pairs.rank(ids[i], ids[i+1])
	}
	for n > 0 {
		best := 0
		for i := 1; i < n; i++ {
			if ranks[i] < ranks[best] {
				best = i
			}
		}
		if ranks[best] == noRank {
			break
		}
		ids[best] = m.results[ranks[best]]
		copy(ids[best+1:n], ids[best+2:n+1])
		copy(ranks[best:n-1], ranks[best+1:n])
		n--
		if best > 0 {
			ranks[best-1] = m.pairs.rank(ids[best-1], ids[best])
		}
		if best < n {
			ranks[best] = m.pairs.rank(ids[best], ids[best+1])
		}
	}
	return ids[:n+1]
}

// workspace is the memory that mergeLong works in.
type workspace struct {
	next, prev []int32  // by symbol: its neighbours, -1 for none
	ranks      []uint32 // by symbol: the rank of its pair with the next one
	heap       []uint64 // rank << 32 | symbol, smallest first; an entry may be out of date
}

// mergeLong is merge in O(n log n) time for n symbols.
func (m *merger) mergeLong(ids []int32, w *workspace) []int32 {
	n := len(ids)
	w.next, w.prev, w.ranks, w.heap = w.next[:0], w.prev[:0], w.ranks[:0], w.heap[:0]
	for i := range n {
		w.prev, w.next = append(w.prev, int32(i-1)), append(w.next, int32(i+1))
	}
	w.next[n-1] = -1
	for i := range n {
		w.ranks = append(w.ranks, noRank)
		if i+1 < n {
			m.enter(ids, int32(i), w)
		}
	}
	for len(w.heap) > 0 {
		top := w.pop()
		at, rank := int32(uint32(top)), uint32(top>>32)
		if w.ranks[at] != rank {
			continue
		}
		gone := w.next[at]
		ids[at] = m.results[rank]
		w.ranks[gone] = noRank
		w.next[at] = w.next[gone]
		if after := w.next[gone]; after >= 0 {
			w.prev[after] = at
		}
		m.enter(ids, at, w)
		if before := w.prev[at]; before >= 0 {
			m.enter(ids, before, w)
		}
	}
	kept := 0
	for i := int32(0); i >= 0; i = w.next[i] {
		ids[kept] = ids[i] // kept never passes i
		kept++
	}
	return ids[:kept]
}

// enter notes the pair that begins at symbol i.
func (m *merger) enter(ids []int32, i int32, w *workspace) {
	w.ranks[i] = noRank
	if w.next[i] >= 0 {
		w.ranks[i] = m.pairs.rank(ids[i], ids[w.next[i]])
	}
	if w.ranks[i] != noRank {
		w.push(uint64(w.ranks[i])<<32 | uint64(i))
	}
}

func (w *workspace) push(x uint64) {
	w.heap = append(w.heap, x)
	i := len(w.heap) - 1
	for i > 0 && w.heap[(i-1)/2] > x {
		w.heap[i] = w.heap[(i-1)/2]
		i = (i - 1) / 2
	}
	w.heap[i] = x
}

func (w *workspace) pop() uint64 {
	top, n := w.heap[0], len(w.heap)-1
	x := w.heap[n]
	w.heap = w.heap[:n]
	i := 0
	for 2*i+1 < n {
		child := 2*i + 1
		if child+1 < n && w.heap[child+1] < w.heap[child] {
			child++
		}
		if w.heap[child] >= x {
			break
		}
		w.heap[i] = w.heap[child]
		i = child
	}
	if n > 0 {
		w.heap[i] = x
	}
	return top
}

// pairTable maps pairs of ids to ranks: open addressing, at most half full. The seed keeps a
// file from choosing pairs that collide.
type pairTable struct {
	slots []pairSlot
	shift int
	seed  uint64
}

type pairSlot struct {
	pair uint64 // left << 32 | right, plus one; 0 means empty
	rank uint32
}

func newPairTable(count int) pairTable {
	size := bits.Len(uint(max(count, 1))) + 1
	return pairTable{slots: make([]pairSlot, 1<<size), shift: 64 - size, seed: rand.Uint64() | 1}
}

// slot is where a pair is, or would be put.
func (p *pairTable) slot(pair uint64) *pairSlot {
	hi, lo := bits.Mul64(pair^p.seed, p.seed*0x9e3779b97f4a7c15|1)
	i := int((hi ^ lo) >> p.shift)
	for p.slots[i].pair != 0 && p.slots[i].pair != pair {
		i = (i + 1) & (len(p.slots) - 1)
	}
	return &p.slots[i]
}

func (p *pairTable) set(left, right int32, rank uint32) {
	pair := uint64(left)<<32 | uint64(right) + 1
	*p.slot(pair) = pairSlot{pair, rank}
}

func (p *pairTable) rank(left, right int32) uint32 {
	s := p.slot(uint64(left)<<32 | uint64(right) + 1)
	if s.pair == 0 {
		return noRank
	}
	return s.rank
}

// joints knows which two characters may stand side by side inside a merged token. Between any
// others a text can be cut before merging without changing the result, because no merge crosses
// the cut. It is a set of hashes: a collision costs a cut, never a wrong one.
type joints [1 << 14]uint64

// newJoints collects the pairs; it returns nil when a byte symbol takes part in a merge, since
// the characters of such a token are not those of the text.
func newJoints(merges [][]string) *joints {
	j := new(joints)
	for _, pair := range merges {
		for _, part := range pair {
			if strings.HasPrefix(part, "<0x") {
				return nil
			}
		}
		left, _ := utf8.DecodeLastRuneInString(pair[0])
		right, _ := utf8.DecodeRuneInString(pair[1])
		word, bit := jointBit(left, right)
		j[word] |= bit
	}
	return j
}

func (j *joints) has(left, right rune) bool {
	word, bit := jointBit(left, right)
	return j[word]&bit != 0
}

func jointBit(left, right rune) (word int, bit uint64) {
	h := (uint64(left)<<32 | uint64(right)) * 0x9e3779b97f4a7c15
	return int(h >> (64 - 14)), 1 << (h >> (64 - 20) & 63)
}
