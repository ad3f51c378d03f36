package storm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// Memory is what the coordinator's process held, in MiB: memory of its own, without files that
// it has mapped.
type Memory struct {
	Samples   int     `json:"samples"`
	First     float64 `json:"first_mib"`
	Last      float64 `json:"last_mib"`
	Largest   float64 `json:"largest_mib"`
	PerMinute float64 `json:"mib_per_minute"` // slope of the line that fits best
	// Threads are the process's.
	ThreadsFirst int `json:"threads_first"`
	ThreadsLast  int `json:"threads_last"`
}

// sample is one look at a process.
type sample struct {
	at      time.Time
	mib     float64
	threads int
}

// watched looks at a process from time to time.
type watched struct {
	stop func()

	mu      sync.Mutex // guards samples
	samples []sample
}

// sampleEvery doubles whenever there are maxSamples, and every other sample is forgotten.
const (
	sampleEvery = time.Second
	maxSamples  = 4096
)

// watchMemory watches until stop or the end of ctx; no process at all for 0.
func watchMemory(ctx context.Context, pid int) *watched {
	ctx, cancel := context.WithCancel(ctx)
	w := &watched{}
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	if pid == 0 {
		return w
	}
	wg.Go(func() {
		for every := sampleEvery; sleep(ctx, every) == nil; {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue // not Linux, or gone, which others notice
			}
			if w.add(sample{time.Now(), field(text, "RssAnon:") / 1024, int(field(text, "Threads:"))}) {
				every *= 2
			}
		}
	})
	return w
}

// add keeps a sample; full says that every other one was forgotten.
func (w *watched) add(s sample) (full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.samples = append(w.samples, s); len(w.samples) < maxSamples {
		return false
	}
	for i := range maxSamples / 2 {
		w.samples[i] = w.samples[2*i]
	}
	w.samples = w.samples[:maxSamples/2]
	return true
}

// field is the number after a name in /proc/PID/status, 0 if there is none.
func field(status []byte, name string) float64 {
	_, rest, ok := bytes.Cut(status, []byte("\n"+name))
	words := bytes.Fields(rest)
	if !ok || len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseFloat(string(words[0]), 64)
	return n
}

// report is of the samples since a moment; nil if there are none.
func (w *watched) report(since time.Time) *Memory {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []sample
	for _, x := range w.samples {
		if x.at.After(since) {
			s = append(s, x)
		}
	}
	if len(s) == 0 {
		return nil
	}
	m := &Memory{Samples: len(s), First: s[0].mib, Last: s[len(s)-1].mib,
		ThreadsFirst: s[0].threads, ThreadsLast: s[len(s)-1].threads}
	// The first fifth is left out of the slope: buffers still grow to their size then.
	m.PerMinute = slope(s[len(s)/5:])
	for _, x := range s {
		m.Largest = max(m.Largest, x.mib)
	}
	return m
}

// slope fits a line by least squares.
func slope(s []sample) float64 {
	n, x, y, xx, xy := float64(len(s)), 0.0, 0.0, 0.0, 0.0
	for _, p := range s {
		minutes := p.at.Sub(s[0].at).Minutes()
		x, y, xx, xy = x+minutes, y+p.mib, xx+minutes*minutes, xy+minutes*p.mib
	}
	if d := n*xx - x*x; d > 0 {
		return (n*xy - x*y) / d
	}
	return 0
}
