package faultinject

import (
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// liveEvery is how often a file of faults is read.
const liveEvery = 5 * time.Millisecond

// Live returns a function that says which faults a node has at the moment, by a file in the form
// ID:FAULTS and more of these after semicolons. It is read again and again until the process
// ends; a file that cannot be understood is none.
func Live(path, id string) (now func() Faults) {
	var current atomic.Pointer[Faults]
	read := func() {
		text, _ := os.ReadFile(path) // one that is not there is empty
		var f Faults
		if of := Of(string(text), id); of != "" {
			f, _ = Parse(of)
		}
		current.Store(&f)
	}
	read()
	go func() {
		for range time.Tick(liveEvery) {
			read()
		}
	}()
	return func() Faults { return *current.Load() }
}

// Of returns a node's faults in a text ID:FAULTS and more of these after semicolons, empty if it
// has none.
func Of(text, id string) string {
	for one := range strings.SplitSeq(text, ";") {
		if node, faults, ok := strings.Cut(one, ":"); ok && node == id {
			return faults
		}
	}
	return ""
}
