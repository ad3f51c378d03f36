package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"drover/placement"
)

// plans records every plan that is written to an etcd.
type plans struct {
	mu        sync.Mutex // guards the fields below
	committed []*placement.Plan
	intended  []*placement.Plan
	bad       []error
}

// recordPlans records until the test ends. It wants revisions to rise, as they do only if
// no planner that was deposed writes any more.
func recordPlans(t *testing.T, endpoint string) *plans {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	p := &plans{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	changes := c.Watch(ctx, "/drover/default/placement/", clientv3.WithPrefix(), clientv3.WithRev(1))
	wg.Go(func() {
		for r := range changes {
			for _, e := range r.Events {
				p.add(string(e.Kv.Key), e.Kv.Value, e.Type == clientv3.EventTypeDelete)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		c.Close()
		for _, err := range p.bad {
			t.Error(err)
		}
	})
	return p
}

func (p *plans) add(key string, value []byte, deleted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list *[]*placement.Plan
	switch {
	case strings.HasSuffix(key, "/plan"):
		list = &p.committed
	case strings.HasSuffix(key, "/intent"):
		list = &p.intended
	default:
		return
	}
	plan, err := placement.Decode(value)
	if deleted || err != nil {
		p.bad = append(p.bad, fmt.Errorf("%s: deleted %v, %w", key, deleted, err))
		return
	}
	if n := len(*list); n > 0 && plan.Revision <= (*list)[n-1].Revision {
		p.bad = append(p.bad, fmt.Errorf("%s: revision %d follows %d", key, plan.Revision,
			(*list)[n-1].Revision))
	}
	*list = append(*list, plan)
}

// last returns the plan that was committed last, or nil.
func (p *plans) last() *placement.Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.committed) == 0 {
		return nil
	}
	return p.committed[len(p.committed)-1]
}

// elected is what a coordinator logs of the election.
var elected = regexp.MustCompile(`msg=planner elected=(true|false)`)

// plansNow tells whether a coordinator believes that it plans.
func plansNow(p *process) bool {
	all := elected.FindAllStringSubmatch(p.errors.String(), -1)
	return len(all) > 0 && all[len(all)-1][1] == "true"
}

// TestPlannerPaused stops the coordinator that plans for longer than its lease. Another
// plans in its place; what the first one does when it goes on changes nothing.
func TestPlannerPaused(t *testing.T) {
	r := &roles{etcd: startEtcd(t), model: demoModel(t)}
	record := recordPlans(t, r.etcd)
	uses := func(ids ...string) {
		t.Helper()
		eventually(t, 60*slack*time.Second, fmt.Sprint("a plan for ", ids), func() (bool, string) {
			last := record.last()
			return last != nil && fmt.Sprint(last.NodeIDs) == fmt.Sprint(ids), fmt.Sprint(last)
		})
	}
	r.expertNode(t, place{}, "n1")
	r.expertNode(t, place{}, "n2")
	var both [2]*process
	var clients [2]*client
	for i := range both {
		var endpoint string
		both[i], endpoint = r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--admin",
			"127.0.0.1:0")
		clients[i] = connectTo(t, endpoint)
	}
	uses("n1", "n2")
	want := clients[0].mustAsk(t, translate)
	ids := []string{"n1", "n2"}
	for round := range 3 {
		first := 0
		eventually(t, 60*slack*time.Second, "one coordinator plans", func() (bool, string) {
			for i, p := range both {
				if plansNow(p) && !plansNow(both[1-i]) {
					first = i
					return true, ""
				}
			}
			return false, "none, or both"
		})
		both[first].signal(syscall.SIGSTOP)
		stopped := both[first]
		t.Cleanup(func() { _ = stopped.cmd.Process.Signal(syscall.SIGCONT) })
		// A change right at the stop is one that the stopped planner has yet to see.
		ids = append(ids, fmt.Sprintf("n%d", 3+2*round))
		r.expertNode(t, place{}, ids[len(ids)-1])
		uses(ids...)
		if got := clients[1-first].mustAsk(t, translate); got != want {
			t.Errorf("answered %q, before %q", got, want)
		}
		both[first].signal(syscall.SIGCONT)
		// And one while it finds out that it was deposed.
		ids = append(ids, fmt.Sprintf("n%d", 4+2*round))
		r.expertNode(t, place{}, ids[len(ids)-1])
		uses(ids...)
		eventually(t, 60*slack*time.Second, "the stopped one has noticed", func() (bool, string) {
			return !plansNow(both[first]) && plansNow(both[1-first]), "not yet"
		})
		both[1-first].tells(t, "drover_ready", isOne)
		for _, p := range both {
			p.tells(t, "drover_planner", func(v float64) bool { return isOne(v) == plansNow(p) })
		}
		for _, c := range clients {
			if got := c.mustAsk(t, translate); got != want {
				t.Errorf("answered %q, before %q", got, want)
			}
		}
	}
}
