package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// healsWithin is how soon after a fault all is as before, without anybody's help.
const healsWithin = 60 * slack * time.Second

// fault is something that goes wrong with one node, and what tells an operator of it.
type fault struct {
	name    string
	on, off func(*testing.T)
	// ready is what the coordinator says of itself while the fault lasts.
	ready readiness
	// rises are metrics of the coordinator that rise meanwhile; of several in one text,
	// separated by blanks, the sum.
	rises []string
	// says are patterns of lines that its log gets.
	says []string
	// shows, if not nil, tells what else is to be seen.
	shows func(*testing.T) (bool, string)
}

type readiness int

const (
	staysReady readiness = iota // or is so again, while the fault goes on
	notReady                    // until the fault ends
	readyOrNot                  // which of it is a matter of time
)

// faulty is a coordinator that is asked all the time, and one of its nodes, with which
// something is wrong.
type faulty struct {
	p        *process // the coordinator
	c        *client
	node     string
	question string
	want     string // the answer
}

// newFaulty asks in quiet.
func newFaulty(t *testing.T, p *process, endpoint, node string) *faulty {
	t.Helper()
	f := &faulty{p: p, c: connectTo(t, endpoint), node: node, question: translate}
	f.want = f.c.mustAsk(t, f.question)
	return f
}

// asks asks one question after the other until stop, each of which must be answered as in quiet.
func (f *faulty) asks(t *testing.T) (answers *atomic.Int64, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	answers = new(atomic.Int64)
	running.Go(func() {
		for ; ctx.Err() == nil; answers.Add(1) {
			got, err := f.c.ask(ctx, f.question)
			if ctx.Err() == nil && (err != nil || got != f.want) {
				t.Errorf("answered %q, %v; in quiet %q", got, err, f.want)
				return
			}
		}
	})
	return answers, sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
}

// sum adds metrics up that are separated by blanks; one that is not there is 0.
func (f *faulty) sum(t *testing.T, names string) (all float64) {
	t.Helper()
	for name := range strings.FieldsSeq(names) {
		v, _ := metricIfAny(t, adminAt.FindStringSubmatch(f.p.errors.String())[1], name)
		all += v
	}
	return all
}

// lines counts the lines of the coordinator's log that fit a pattern.
func (f *faulty) lines(pattern string) int {
	return len(regexp.MustCompile("(?m)^.*"+pattern+".*$").FindAllString(f.p.errors.String(), -1))
}

// of is a metric of the node.
func (f *faulty) of(name string, labels ...string) string {
	labels = append(labels, `node="`+f.node+`"`)
	slices.Sort(labels) // as Prometheus has them
	return name + "{" + strings.Join(labels, ",") + "}"
}

// check lets a fault happen, waits for everything that is to tell of it, ends it, and waits
// until all is as before. The answers are the same bytes all the time.
func (f *faulty) check(t *testing.T, x *fault) {
	const patience = 3 * time.Minute * slack // for signs that need several questions
	metrics, lines := make([]float64, len(x.rises)), make([]int, len(x.says))
	for i, names := range x.rises {
		metrics[i] = f.sum(t, names)
	}
	for i, pattern := range x.says {
		lines[i] = f.lines(pattern)
	}
	answers, stop := f.asks(t)
	defer stop()
	off := sync.OnceFunc(func() { x.off(t) })
	defer off() // before stop: else it may wait for ever
	x.on(t)
	for i, names := range x.rises {
		eventually(t, patience, names+" rises", func() (bool, string) {
			v := f.sum(t, names)
			return v > metrics[i], fmt.Sprintf("it is %v, before %v", v, metrics[i])
		})
	}
	for i, pattern := range x.says {
		eventually(t, patience, "the log says "+pattern, func() (bool, string) {
			return f.lines(pattern) > lines[i], fmt.Sprint(lines[i], " times, as before")
		})
	}
	if x.shows != nil {
		eventually(t, patience, "it shows", func() (bool, string) { return x.shows(t) })
	}
	switch x.ready {
	case staysReady:
		f.p.tells(t, "drover_ready", isOne)
	case notReady:
		f.p.tells(t, "drover_ready", isZero)
	}
	off()
	f.heals(t, answers)
}

// heals waits until questions are answered, the coordinator is ready and the node computes
// again.
func (f *faulty) heals(t *testing.T, answers *atomic.Int64) {
	t.Helper()
	began := time.Now()
	enough := answers.Load() + 2 // one was asked after the fault
	rows := -1.
	eventually(t, healsWithin, "all is as before", func() (bool, string) {
		// What is measured may be so sooner than it is said, and only then the next fault is news.
		h, err := healthv1.NewHealthClient(f.c.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil || h.Status != healthv1.HealthCheckResponse_SERVING {
			return false, fmt.Sprint("health: ", h, err)
		}
		n := f.c.nodes(t)[f.node]
		if n.GetState() != "ready" || n.GetReplicaCount() == 0 {
			return false, n.String()
		}
		if rows < 0 {
			rows = f.sum(t, f.of("drover_node_rows_total"))
		}
		for name, want := range map[string]float64{"drover_ready": 1, "drover_experts_unreachable": 0,
			f.of("drover_node_links_up"): f.sum(t, f.of("drover_node_links"))} {
			if v := f.sum(t, name); v != want {
				return false, fmt.Sprintf("%s is %v", name, v)
			}
		}
		now := f.sum(t, f.of("drover_node_rows_total"))
		return answers.Load() >= enough && now > rows,
			fmt.Sprintf("%d answers, %v rows, then %v", answers.Load(), rows, now)
	})
	t.Logf("all was as before after %v", time.Since(began).Round(time.Millisecond))
}
