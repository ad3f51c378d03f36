// Package trial measures what faults and changes of a cluster do to the times of tokens, on real
// processes in network namespaces of their own.
//
// A load of questions lasts as long as the trial. Quiet windows of time take turns with windows
// in which something is wrong, or nodes come and go, and each is compared with the quiet ones
// beside it: so what else the machine does disturbs both. Times are reported and never judged;
// what is judged is that no request fails and that answers are the same, byte for byte.
package trial

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Options describes a trial. ModelDir is required.
type Options struct {
	ModelDir string
	// Cache is the folder of packed weights, "none" for none.
	Cache string
	// Replicas are each expert's copies; zero means 2.
	Replicas int
	// NodeThreads is how many compute in each node; zero means 1.
	NodeThreads int
	// Clients ask at once; zero means 4.
	Clients int
	// Window is the length of a window; zero means 5 seconds. Rounds is how often each fault or
	// change is tried; zero means 3.
	Window time.Duration
	Rounds int
	// Faults are those to try; none means all.
	Faults []string
	// Injects says that this program was built with the tag faultinject.
	Injects bool
	// Log takes what the processes log; nil drops it. Progress, if not nil, is told what begins.
	Log      io.Writer
	Progress func(what string)
}

func (o *Options) setDefaults() {
	if o.Cache == "" {
		o.Cache = "none"
	}
	for _, n := range []struct {
		field *int
		usual int
	}{{&o.Replicas, 2}, {&o.NodeThreads, 1}, {&o.Clients, 4}, {&o.Rounds, 3}} {
		if *n.field == 0 {
			*n.field = n.usual
		}
	}
	if o.Window == 0 {
		o.Window = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

func (o *Options) validate() error {
	switch {
	case o.ModelDir == "":
		return errors.New("a trial needs a model")
	case o.Replicas < 1 || o.Replicas > 4 || o.Clients < 1 || o.Clients > 1024:
		return fmt.Errorf("%d replicas and %d clients: must be 1 to 4, 1 to 1024", o.Replicas, o.Clients)
	case o.Rounds < 1 || o.Rounds > 100 || o.Window < 100*time.Millisecond || o.Window > time.Hour:
		return fmt.Errorf("%d rounds of %v: must be 1 to 100, of 100ms to 1h", o.Rounds, o.Window)
	}
	return nil
}
