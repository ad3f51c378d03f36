// Package reload follows small files that others replace while a process runs:
// certificates, keys, lists of keys.
//
// It compares contents, not times: a Secret of Kubernetes changes by a link that is
// moved, and a copy may keep the time of its original.
package reload

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// every is how often files are read.
	every = time.Second
	// maxBytes bounds one file.
	maxBytes = 1 << 20
	// patience is after how many failures in a row one is told of: several files are
	// replaced one after the other, and for a moment do not fit.
	patience = 3
)

// Use takes the contents of all files, in their order. It returns an error if they are
// not valid; then what it took before stays in force.
type Use func(contents [][]byte) error

// Events report what happens after the first reading. Each may be nil.
type Events struct {
	// Reloaded is called when new contents are in force.
	Reloaded func()
	// Failed is called when files changed and cannot be used, once for each series of
	// equal errors.
	Failed func(error)
}

// Files are some files that are followed.
type Files struct {
	paths  []string // fixed after Open
	use    Use
	events Events

	stop func()
	done chan struct{}

	// The fields below belong to the goroutine that follows.
	failures int
	told     string

	mu   sync.Mutex // guards last, and lets one Check run at a time
	last [][]byte   // what Use took
}

// Open reads the files and hands them to use, then follows them until Close.
func Open(paths []string, use Use, events Events) (*Files, error) {
	f := &Files{paths: paths, use: use, events: events, done: make(chan struct{})}
	if _, err := f.Check(); err != nil {
		return nil, err
	}
	quit := make(chan struct{})
	f.stop = sync.OnceFunc(func() { close(quit) })
	go f.follow(quit)
	return f, nil
}

// Close stops following; what was read last stays in force.
func (f *Files) Close() {
	f.stop()
	<-f.done
}

func (f *Files) follow(quit <-chan struct{}) {
	defer close(f.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-quit:
			return
		}
		changed, err := f.Check()
		f.tell(changed, err)
	}
}

// tell passes on what an operator wants to know.
func (f *Files) tell(changed bool, err error) {
	if err == nil {
		f.failures, f.told = 0, ""
		if changed && f.events.Reloaded != nil {
			f.events.Reloaded()
		}
		return
	}
	f.failures++
	if text := err.Error(); f.failures >= patience && text != f.told {
		f.told = text
		if f.events.Failed != nil {
			f.events.Failed(err)
		}
	}
}

// Check reads the files now, and says whether something new is in force.
func (f *Files) Check() (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	contents := make([][]byte, len(f.paths))
	same := f.last != nil
	for i, path := range f.paths {
		if contents[i], err = read(path); err != nil {
			return false, err
		}
		same = same && bytes.Equal(contents[i], f.last[i])
	}
	if same {
		return false, nil
	}
	if err := f.use(contents); err != nil {
		return false, err
	}
	f.last = contents
	return true, nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err == nil && len(b) > maxBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxBytes)
	}
	return b, err
}
