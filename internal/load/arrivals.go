package load

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Poisson returns arrivals that do not know of each other, so many each second on average; the
// same ones for the same seed. They end after a hundred years.
func Poisson(seed uint64, perSecond float64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		const century = 100 * 365 * 24 * 3600.0
		random := rand.New(rand.NewPCG(seed, math.Float64bits(perSecond)))
		for at := 0.0; ; {
			at += random.ExpFloat64() / perSecond
			if !(at < century) || !yield(seconds(at)) {
				return
			}
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// The bounds of a trace.
const (
	maxTrace        = 1 << 20
	maxTraceSeconds = 1e6
)

// ReadTrace reads arrival times: a number of seconds from the start on each line, ascending.
// Blank lines and those that begin with # say nothing.
func ReadTrace(r io.Reader) ([]time.Duration, error) {
	var all []time.Duration
	last := 0.0
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		at, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %q is not a number of seconds", number, text)
		case !(at >= last) || at > maxTraceSeconds:
			return nil, fmt.Errorf("line %d: %v s: must be at least the line before, %v, and at "+
				"most %v", number, at, last, maxTraceSeconds)
		case len(all) == maxTrace:
			return nil, fmt.Errorf("line %d: more than %d arrivals", number, maxTrace)
		}
		last = at
		all = append(all, seconds(at))
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return all, nil
}
