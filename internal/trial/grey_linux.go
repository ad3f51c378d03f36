package trial

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"drover/internal/faultproxy"
	droverv1 "drover/proto/drover/v1"
)

// trial is one Grey or Elastic under way.
type trial struct {
	*Options
	c        *cluster
	places   map[string]*place
	proxy    *faultproxy.Proxy
	injected string // file of what nodes do wrong
	fetched  atomic.Int64
	load     *asking
}

// greyNodes is the number of nodes under grey failures.
const greyNodes = 4

// Grey measures each fault on a cluster of 4 nodes. It must run in a network namespace of its
// own (see Apart). Its report's Violations say what must not be; an error, that it could not be
// made.
func Grey(ctx context.Context, o Options) (GreyReport, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return GreyReport{}, err
	}
	t := &trial{Options: &o, places: map[string]*place{}}
	chosen, err := t.choose()
	if err != nil {
		return GreyReport{}, err
	}
	t.c = &cluster{o: &o, nodes: map[string]*process{}, log: &lockedWriter{w: o.Log}}
	defer t.c.close()
	if err := t.startNodes(ctx); err != nil {
		return GreyReport{}, err
	}
	if t.load, err = ask(ctx, t.c); err != nil {
		return GreyReport{}, err
	}
	defer t.load.stop()
	o.Progress("quiet answers")
	if err := t.load.warm(ctx); err != nil {
		return GreyReport{}, err
	}
	r := GreyReport{Nodes: greyNodes, Replicas: o.Replicas, Clients: o.Clients,
		WindowSeconds: o.Window.Seconds()}
	var tried []tries
	for _, f := range chosen {
		if err := f.needs(); err != nil {
			r.LeftOut = append(r.LeftOut, f.name+": "+err.Error())
			continue
		}
		o.Progress(f.name)
		s, err := t.try(ctx, f)
		if err != nil {
			return r, fmt.Errorf("%s: %w", f.name, err)
		}
		tried = append(tried, s)
	}
	t.load.stop()
	for _, s := range tried {
		r.Faults = append(r.Faults, s.report(t.load))
	}
	r.Outcome = t.load.outcome()
	return r, nil
}

// choose returns the faults that were asked for.
func (t *trial) choose() (chosen []fault, err error) {
	var names []string
	for _, f := range t.faults() {
		names = append(names, f.name)
		if len(t.Faults) == 0 || slices.Contains(t.Faults, f.name) {
			chosen = append(chosen, f)
		}
	}
	for _, name := range t.Faults {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("fault %q is not known: want one of %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}

// startNodes starts a cluster whose nodes are machines of their own, and waits for it.
func (t *trial) startNodes(ctx context.Context) error {
	if err := t.c.start(greyNodes); err != nil {
		return err
	}
	t.injected = filepath.Join(t.c.dir, "faults")
	if err := t.inject(""); err != nil {
		return err
	}
	var ids []string
	for i := 1; i <= greyNodes; i++ {
		id := fmt.Sprintf("node-%d", i)
		at, err := machine(id, i)
		if err != nil {
			return err
		}
		t.places[id] = at
		t.c.push(at.close)
		listen := at.address + ":" + victimPort
		args := []string{"--listen", listen}
		if id == delayed {
			if t.proxy, err = faultproxy.StartAt(hubAddress+":0", listen); err != nil {
				return err
			}
			t.c.push(t.proxy.Close)
			args = append(args, "--advertise", t.proxy.Address())
		}
		if t.Injects {
			args = append(args, "--inject", "@"+t.injected)
		}
		if err := t.c.node(at, id, args...); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	return t.c.share(ctx, ids...)
}

// tries are the windows of one fault: one more quiet one than faulty ones.
type tries struct {
	fault         fault
	quiet, faulty []window
	extra         []float64 // part of rows that were sent twice, in faulty windows
	fetched       []float64 // MB/s
}

// try takes turns: quiet, faulty, quiet and so on.
func (t *trial) try(ctx context.Context, f fault) (s tries, err error) {
	s.fault = f
	for range t.Rounds {
		w, err := t.quiet(ctx)
		if err != nil {
			return s, err
		}
		s.quiet = append(s.quiet, w)
		_, before, err := t.c.list(ctx)
		if err != nil {
			return s, err
		}
		had := t.fetched.Load()
		w.from = time.Now()
		err = f.on(ctx)
		if err == nil {
			err = sleep(ctx, t.Window)
		}
		w.to = time.Now()
		if failed := f.off(); err == nil {
			err = failed
		}
		if err != nil {
			return s, err
		}
		s.faulty = append(s.faulty, w)
		if n := t.fetched.Load() - had; n > 0 {
			s.fetched = append(s.fetched, float64(n)/1e6/w.to.Sub(w.from).Seconds())
		}
		_, after, err := t.c.list(ctx)
		if err != nil {
			return s, err
		}
		s.extra = append(s.extra, extra(before, after))
	}
	w, err := t.quiet(ctx)
	s.quiet = append(s.quiet, w)
	return s, err
}

// quiet is a window without faults, once the cluster is whole again for a while.
func (t *trial) quiet(ctx context.Context) (w window, err error) {
	ids := make([]string, 0, greyNodes)
	for i := 1; i <= greyNodes; i++ {
		ids = append(ids, fmt.Sprintf("node-%d", i))
	}
	if err := t.c.share(ctx, ids...); err != nil {
		return w, err
	}
	if err := sleep(ctx, calmDown); err != nil {
		return w, err
	}
	w.from = time.Now()
	err = sleep(ctx, t.Window)
	w.to = time.Now()
	return w, err
}

// calmDown is left out after a fault or a change: what was sent is read, links are used again.
const calmDown = 2 * time.Second

// extra is the part of rows sent twice: because an answer was late, or to learn how fast a node is.
func extra(before, after *droverv1.Dispatched) float64 {
	rows := after.GetRows() - before.GetRows()
	twice := after.GetHedgedRows() + after.GetProbedRows() - before.GetHedgedRows() -
		before.GetProbedRows()
	return float64(twice) / float64(max(rows, 1))
}

func (s tries) report(load *asking) GreyFault {
	f := GreyFault{Fault: s.fault.name, What: s.fault.what, Goal: s.fault.goal,
		Extra: spread(s.extra), FetchedMBs: spread(s.fetched)}
	var ratios, quiet, faulty, pauses []float64
	for i, w := range s.faulty {
		beside, in := load.itl(s.quiet[i], s.quiet[i+1]), load.itl(w)
		ratios = append(ratios, in.P99/max(beside.P99, 1e-3))
		quiet, faulty = append(quiet, beside.P99), append(faulty, in.P99)
		pauses = append(pauses, in.Max)
		f.Tokens += in.Count
	}
	f.Ratio, f.QuietP99, f.P99, f.Pause = spread(ratios), spread(quiet), spread(faulty),
		spread(pauses)
	return f
}
