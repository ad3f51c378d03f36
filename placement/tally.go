package placement

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// rowsPerTouch is how many rows' arithmetic takes as long as streaming an expert's
// weights from memory once.
const rowsPerTouch = 8

// Work is what an expert costs a node that computed so many rows of it in so many batches.
// Each batch reads the weights once, however many rows there are: that is what counts in
// decode; the rows do in prefill.
func Work(batches, rows float64) float64 { return batches + rows/rowsPerTouch }

const (
	// halfSeconds is the half-life of a Tally's memory. It does not forget faster than
	// halfWork for each expert arrives either, so that a quiet night does not erase what the
	// day has taught.
	halfSeconds = 120
	halfWork    = 16
	// priorWork for each expert is taken for granted: a few rows prove nothing.
	priorWork = 4
	// quietWork is the work of a layer below which an observation is left out: what
	// checks of health do must not look like load.
	quietWork = 16
)

// Tally is a moving average of the work of each expert. The zero Tally has seen nothing.
type Tally struct {
	work    [][]float64 // by layer and expert, decayed
	seconds float64     // decayed alike
}

// Observe adds the work of some seconds. Its shape is that of the first time.
func (t *Tally) Observe(work [][]float64, seconds float64) {
	if len(work) == 0 || len(work[0]) == 0 || !(seconds > 0) {
		return
	}
	if t.work == nil {
		t.work = grid[float64](len(work), len(work[0]))
	}
	sum := 0.0
	for _, w := range work[0] {
		sum += w
	}
	if sum < quietWork {
		t.seconds += seconds
		return
	}
	lives := min(seconds/halfSeconds, sum/(halfWork*float64(len(work[0]))))
	keep := math.Exp2(-lives)
	t.seconds = t.seconds*keep + seconds
	for l := range t.work {
		for e := range t.work[l] {
			t.work[l][e] = t.work[l][e]*keep + work[l][e]
		}
	}
}

// Rates returns the work of each expert in a second, or nil if nothing was observed.
func (t *Tally) Rates() [][]float64 {
	if t.work == nil {
		return nil
	}
	rates := grid[float64](len(t.work), len(t.work[0]))
	for l := range rates {
		for e, w := range t.work[l] {
			rates[l][e] = (w + priorWork) / t.seconds
		}
	}
	return rates
}

// AddLoad adds a load to a sum of the same shape, and returns the sum: nil is none.
func AddLoad(sum, load [][]float64) [][]float64 {
	if load == nil {
		return sum
	}
	if sum == nil {
		sum = grid[float64](len(load), len(load[0]))
	}
	for l := range min(len(sum), len(load)) {
		for e := range min(len(sum[l]), len(load[l])) {
			sum[l][e] += load[l][e]
		}
	}
	return sum
}

// A load record is: the two bytes of loadMagic, layers and experts as unsigned varints,
// the largest load as a float32, and a byte for each layer and expert: 0 for none, else
// loads fall from the largest, at 255, by half with each 16 less.
const (
	loadMagic = "\xd7\x02"
	// maxLoadBytes bounds a load record; larger models are planned without.
	maxLoadBytes = 128 << 10
	loadSteps    = 16
)

// EncodeLoad returns a load as a compact record: each is within 2.2 % of what it was, or
// less than 1/60000 of the largest.
func EncodeLoad(load [][]float64) ([]byte, error) {
	if len(load) == 0 || len(load[0]) == 0 || len(load)*len(load[0]) > maxLoadBytes-64 {
		return nil, fmt.Errorf("placement: a load of %d layers, want at least one expert, and"+
			" at most %d in all", len(load), maxLoadBytes-64)
	}
	most := 0.0
	for l := range load {
		for e := range load[l] {
			most = max(most, loadOf(load, l, e))
		}
	}
	b := append(make([]byte, 0, 64+len(load)*len(load[0])), loadMagic...)
	b = binary.AppendUvarint(b, uint64(len(load)))
	b = binary.AppendUvarint(b, uint64(len(load[0])))
	b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(most)))
	for l := range load {
		for e := range load[0] {
			step := 0.0
			if v := loadOf(load, l, e); v > 0 {
				step = max(255+math.Round(loadSteps*math.Log2(v/most)), 0)
			}
			b = append(b, byte(step))
		}
	}
	return b, nil
}

// DecodeLoad reads a record of EncodeLoad of that shape.
func DecodeLoad(record []byte, layers, experts int) ([][]float64, error) {
	bad := errors.New("placement: load record is malformed, or of another model")
	if len(record) > maxLoadBytes || len(record) < 2 || string(record[:2]) != loadMagic {
		return nil, bad
	}
	r := reader{rest: record[2:]}
	gotLayers, gotExperts := r.number(MaxLayers), r.number(MaxExperts)
	if r.bad || int(gotLayers) != layers || int(gotExperts) != experts ||
		len(r.rest) != 4+layers*experts {
		return nil, bad
	}
	most := float64(math.Float32frombits(binary.LittleEndian.Uint32(r.rest)))
	if !(most >= 0 && most <= math.MaxFloat32) {
		return nil, bad
	}
	load := grid[float64](layers, experts)
	for i, step := range r.rest[4:] {
		if step > 0 {
			load[i/experts][i%experts] = most * math.Exp2((float64(step)-255)/loadSteps)
		}
	}
	return load, nil
}

// Pace spaces out changes of the plan for the sake of load, in rounds: where they follow
// each other closely the waits double, up to maxWait rounds, else they halve, so that a
// load that swings to and fro does not move replicas to and fro.
type Pace struct {
	wait, next, last int
}

const maxWait = 16

// Due tells whether the plan may follow the load in a round.
func (p *Pace) Due(round int) bool { return round >= p.next }

// Changed notes that it did in a round. A change that goes on in the next round, since
// moves are bounded, does not lengthen the wait.
func (p *Pace) Changed(round int, goesOn bool) {
	switch {
	case goesOn:
		p.next = round + 1
		return
	case p.wait > 0 && round-p.last <= 8*p.wait:
		p.wait = min(2*p.wait, maxWait)
	default:
		p.wait = max(p.wait/2, 1)
	}
	p.last, p.next = round, round+p.wait
}
