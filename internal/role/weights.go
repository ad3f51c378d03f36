package role

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"drover/kernel"
	"drover/model"
	"drover/packed"
)

// Weights says where a role keeps packed weights from run to run.
type Weights struct {
	// Cache is the folder of packed weights. Empty means that they are packed in memory
	// every time.
	Cache string
	// Progress, if not nil, is called while weights are loaded with the MB that are ready
	// and about how many there will be. Calls do not overlap.
	Progress func(done, total int)
	// Loaded, if not nil, is added the bytes of what a role loads.
	Loaded *atomic.Int64
	// Log, if not nil, is told of files that are damaged or cannot be written.
	Log *slog.Logger
}

// Options describes how a model is opened. A folder that cannot be used costs time at
// the next start, not the answer: weights are packed in memory then.
func (w Weights) Options(mode kernel.Mode, d kernel.Device) model.Options {
	o := model.Options{Mode: mode, Device: d}
	if w.Cache == "" {
		return o
	}
	log := w.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	unwritable := func(err error) {
		log.Warn("packed weights stay in memory; the next start packs again", "error", err)
	}
	store, err := packed.Open(w.Cache, packed.Options{
		Unwritable: unwritable,
		Damaged: func(path string, err error) {
			log.Warn("packed weights cannot be used and are packed again", "path", path, "error", err)
		},
	})
	if err != nil {
		unwritable(err)
		return o
	}
	o.Store = store
	return o
}

// forRole is Options for a role of a cluster, whose log is told now and then how many
// weights are loaded: the first start of a large model packs for minutes.
func (w Weights) forRole(mode kernel.Mode, d kernel.Device, log *slog.Logger) model.Options {
	if w.Log == nil {
		w.Log = log
	}
	o := w.Options(mode, d)
	var mu sync.Mutex // guards the fields below
	var done, logged int64
	last := time.Now()
	o.Packed = func(bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		done += bytes
		if w.Loaded != nil {
			w.Loaded.Add(bytes)
		}
		if now := time.Now(); now.Sub(last) >= logEvery {
			log.Info("loading weights", "mb_ready", done/megabyte, "mb_per_second",
				int64(float64(done-logged)/megabyte/now.Sub(last).Seconds()))
			last, logged = now, done
		}
	}
	return o
}

const (
	megabyte = 1e6
	logEvery = 5 * time.Second
)

// openWatched opens the checkpoint in dir for a whole model and reports how much of it
// is loaded.
func openWatched(dir string, opts model.Options, w Weights) (*Model, error) {
	var mu sync.Mutex // guards done and total
	var done, total int64
	if w.Progress != nil {
		opts.Packed = func(bytes int64) {
			mu.Lock()
			defer mu.Unlock()
			done += bytes
			total = max(total, done)
			w.Progress(int(done/megabyte), int(total/megabyte))
		}
	}
	m, err := OpenModel(dir, opts)
	if err == nil {
		total = model.PackedBytes(m.Checkpoint, opts.Mode)
	}
	return m, err
}
