// Package storm breaks the expert nodes of a cluster while it is asked, again and again, and
// compares every answer with that of a quiet time, byte for byte.
//
// A storm has two parts with the same load: a fixed number of clients, each of which asks one
// question after the other. The quiet part asks every question, keeps the answers, and measures
// what gaps between tokens are usual here. In the other part a fault comes whenever the cluster
// is whole again: all nodes ready, and every expert with all of its replicas.
package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"drover/internal/load"
	droverv1 "drover/proto/drover/v1"
)

// Fault is what happens to a node.
type Fault string

// The faults.
const (
	// Kill ends a node's process without a word; something else starts it again.
	Kill Fault = "kill"
	// Stop keeps a node from running for a while: it neither answers nor is gone.
	Stop Fault = "stop"
	// KillAll is Kill of all nodes at once.
	KillAll Fault = "kill-all"
)

// Options describes a storm. Coordinator, Cluster and Signal are required, and Kills or Duration.
type Options struct {
	Coordinator droverv1.CoordinatorServiceClient
	Cluster     droverv1.ClusterServiceClient
	// Signal sends a signal to a node's process.
	Signal func(pid int, s syscall.Signal) error
	// Questions are asked in turn, at most 4096. Nil means the built-in mix.
	Questions []load.Question
	// Fault is Kill if it is empty. Pause is for how long Stop stops, 3 seconds if it is zero:
	// longer than the node's lease under `drover up`.
	Fault Fault
	Pause time.Duration
	// Kills is the number of faults. Zero means as many as there are until Duration is over.
	Kills    int
	Duration time.Duration
	// Requests is the least number of them during the storm; it goes on until they are asked.
	Requests int
	// Quiet is for how long the quiet part goes on at least, 5 seconds if it is zero.
	Quiet time.Duration
	// Clients ask at once. Zero means 8.
	Clients int
	// Every is the mean time for which the cluster is left whole before a fault, beyond a window.
	// Zero means a second.
	Every time.Duration
	// Window is the time after a fault in which gaps are added by it, and the time before each
	// fault in which gaps show what comes without. Zero means a second.
	Window time.Duration
	// HealWithin is how long the cluster may take to be whole again. Zero means 60 seconds.
	HealWithin time.Duration
	// Timeout ends a request that is not answered. Zero means a minute.
	Timeout time.Duration
	// Seed is of when faults come and which node they hit.
	Seed uint64
	// PID is the coordinator's process, whose memory is watched. Zero watches none. MaxGrowth
	// is by how many MiB a minute its memory may grow in a storm of at least five minutes. Zero
	// is no bound.
	PID       int
	MaxGrowth float64
	// Progress, if not nil, is called after each fault with how many there were, and of how many,
	// which is 0 where time decides.
	Progress func(done, total int)
}

const (
	maxQuestions = 4096
	maxClients   = 1024
)

func (o *Options) setDefaults() (err error) {
	defaults := []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Pause, 3 * time.Second}, {&o.Quiet, 5 * time.Second}, {&o.Every, time.Second},
		{&o.HealWithin, time.Minute}, {&o.Timeout, time.Minute}, {&o.Window, time.Second}}
	for _, d := range defaults {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.Clients == 0 {
		o.Clients = 8
	}
	if o.Fault == "" {
		o.Fault = Kill
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Questions == nil {
		o.Questions, err = load.Mix()
	}
	return err
}

func (o *Options) validate() error {
	switch {
	case o.Fault != Kill && o.Fault != Stop && o.Fault != KillAll:
		return fmt.Errorf("fault %q is not known: want %s, %s or %s", o.Fault, Kill, Stop, KillAll)
	case len(o.Questions) == 0 || len(o.Questions) > maxQuestions:
		return fmt.Errorf("%d questions: must be 1 to %d", len(o.Questions), maxQuestions)
	case o.Clients < 1 || o.Clients > maxClients:
		return fmt.Errorf("%d clients: must be 1 to %d", o.Clients, maxClients)
	case o.Kills < 0 || o.Duration < 0 || o.Kills == 0 && o.Duration == 0:
		return errors.New("want a number of faults, or for how long they come")
	case min(o.Pause, o.Quiet, o.Every, o.Window, o.HealWithin, o.Timeout) < 0 || o.Requests < 0:
		return errors.New("a negative time or number of requests")
	}
	return nil
}

// Run makes a storm. Its report's Violations say what was broken; an error, that the storm could
// not be made.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.setDefaults(); err != nil {
		return Report{}, err
	}
	if err := o.validate(); err != nil {
		return Report{}, err
	}
	s := &storm{Options: o, random: rand.New(rand.NewPCG(o.Seed, 1))}
	nodes, err := s.whole(ctx, nil)
	if err != nil {
		return Report{}, fmt.Errorf("before the storm: %w", err)
	}
	watched := watchMemory(ctx, o.PID)
	defer watched.stop()
	quiet := newPhase(&o, nil)
	if err := quiet.run(ctx, s.wait); err != nil {
		return Report{}, fmt.Errorf("the quiet part: %w", err)
	}
	if len(quiet.failures) > 0 {
		return Report{}, fmt.Errorf("the quiet part: question %s: %s", quiet.failures[0].Question,
			quiet.failures[0].Error)
	}
	rough := newPhase(&o, quiet)
	began := time.Now()
	err = rough.run(ctx, s.faults)
	if err != nil && !errors.As(err, new(notHealed)) {
		return Report{}, err
	}
	rep := s.report(quiet, rough, len(nodes))
	rep.Memory = watched.report(began)
	if err != nil {
		rep.Violations = append(rep.Violations, err.Error())
	}
	rep.judge(o.MaxGrowth)
	return rep, nil
}

// storm is one Run under way.
type storm struct {
	Options
	random *rand.Rand // used by one goroutine at a time
	heals  []time.Duration
}

// wait lets the quiet part go on until every question is answered and its time is over.
func (s *storm) wait(ctx context.Context, p *phase) error {
	for began := time.Now(); time.Since(began) < s.Quiet || !p.complete(); {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// faults breaks nodes until there were enough faults, and the cluster is whole again.
func (s *storm) faults(ctx context.Context, p *phase) error {
	began := time.Now()
	nodes, err := s.whole(ctx, nil)
	if err != nil {
		return err
	}
	for done := 0; ; done++ {
		s.Progress(done, s.Kills)
		if s.Kills > 0 && done == s.Kills || s.Duration > 0 && time.Since(began) >= s.Duration {
			break
		}
		mean := float64(s.Every)
		if err := sleep(ctx, time.Duration(min(s.random.ExpFloat64(), 4)*mean)); err != nil {
			return err
		}
		p.calm(time.Now())
		if err := sleep(ctx, s.Window); err != nil {
			return err
		}
		if nodes, err = s.strike(ctx, p, nodes); err != nil {
			return err
		}
	}
	for p.count() < s.Requests {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// strike makes one fault and waits until the cluster is whole.
func (s *storm) strike(
	ctx context.Context, p *phase, nodes []*droverv1.NodeStatus,
) ([]*droverv1.NodeStatus, error) {
	victims := nodes
	if s.Fault != KillAll {
		i := s.random.IntN(len(nodes))
		victims = nodes[i : i+1]
	}
	began := time.Now()
	p.fault(began)
	gone, err := s.hit(ctx, victims)
	if err != nil {
		return nil, err
	}
	if nodes, err = s.whole(ctx, gone); err != nil {
		return nil, err
	}
	s.heals = append(s.heals, time.Since(began))
	return nodes, nil
}

// hit signals the victims and returns which processes must not be there any more.
func (s *storm) hit(
	ctx context.Context, victims []*droverv1.NodeStatus,
) (gone map[uint64]bool, err error) {
	if s.Fault == Stop {
		pid := int(victims[0].Pid)
		if err := s.Signal(pid, syscall.SIGSTOP); err != nil {
			return nil, fmt.Errorf("stop %s: %w", victims[0].Id, err)
		}
		// Continued in any case: a stopped process cannot even be ended well.
		return nil, errors.Join(sleep(ctx, s.Pause), s.Signal(pid, syscall.SIGCONT))
	}
	gone = map[uint64]bool{}
	for _, n := range victims {
		if err := s.Signal(int(n.Pid), syscall.SIGKILL); err != nil {
			return nil, fmt.Errorf("kill %s: %w", n.Id, err)
		}
		gone[n.Pid] = true
	}
	return gone, nil
}

// sleep waits, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
