package trial

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// The nodes that are not like the others: one has half the memory of an even share of six nodes,
// one takes twice as long for each computation, if this build injects faults.
const (
	smallNode = "n4"
	halfNode  = "n5"
)

// Elastic measures a cluster whose nodes come and go, between quiet windows: 2 nodes, 6, 3, 5, a
// drain, and a restart of all in turn. It must run in a network namespace of its own (see Apart).
func Elastic(ctx context.Context, o Options) (ElasticReport, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return ElasticReport{}, err
	}
	t := &trial{Options: &o, places: map[string]*place{}}
	t.c = &cluster{o: &o, nodes: map[string]*process{}, log: &lockedWriter{w: o.Log}}
	defer t.c.close()
	if err := t.c.start(2); err != nil {
		return ElasticReport{}, err
	}
	e := &elastic{trial: t}
	if err := e.join(ctx, "n1", "n2"); err != nil {
		return ElasticReport{}, err
	}
	var err error
	if t.load, err = ask(ctx, t.c); err != nil {
		return ElasticReport{}, err
	}
	defer t.load.stop()
	o.Progress("quiet answers")
	if err := t.load.warm(ctx); err != nil {
		return ElasticReport{}, err
	}
	for range o.Rounds {
		if err := e.round(ctx); err != nil {
			return ElasticReport{}, err
		}
	}
	t.load.stop()
	return e.report(), nil
}

// elastic is one Elastic under way.
type elastic struct {
	*trial
	names  []string        // of the changes, in order of the first round
	moves  []move          // of all rounds
	shares []time.Duration // from when a new node had its weights until it carried its share
	half   []time.Duration // the same of the node of half the speed
	idle   []string        // of the nodes that did not within shareGoal, what they got
}

// move is one change: the quiet window before, the time until all had their share, and the quiet
// window after.
type move struct {
	name                  string
	before, moving, after window
}

// round makes all changes, from two nodes to two nodes.
func (e *elastic) round(ctx context.Context) error {
	all := []string{"n1", "n3", "n4", "n7", "n8"}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"2 to 6 nodes", func(ctx context.Context) error { return e.grow(ctx, "n3", "n4", "n5", "n6") }},
		{"6 to 3 nodes", func(ctx context.Context) error { return e.leave(ctx, "n2", "n5", "n6") }},
		{"3 to 5 nodes", func(ctx context.Context) error { return e.grow(ctx, "n7", "n8") }},
		{"drain of one", func(ctx context.Context) error { return e.drain(ctx, "n7") }},
		{"drain undone", func(ctx context.Context) error { return e.undo(ctx, "n7") }},
		{"all restarted", func(ctx context.Context) error { return e.restart(ctx, all) }},
		{"5 to 2 nodes", func(ctx context.Context) error { return e.leave(ctx, "n3", "n7", "n8") }},
		{"1 for another", func(ctx context.Context) error {
			if err := e.grow(ctx, "n2"); err != nil {
				return err
			}
			return e.leave(ctx, "n4")
		}},
	}
	before, err := e.still(ctx)
	if err != nil {
		return err
	}
	for _, s := range steps {
		e.Progress(s.name)
		m := move{name: s.name, before: before, moving: window{from: time.Now()}}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := e.c.share(ctx, e.running()...); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		m.moving.to = time.Now()
		if m.after, err = e.still(ctx); err != nil {
			return err
		}
		if !slices.Contains(e.names, s.name) {
			e.names = append(e.names, s.name)
		}
		e.moves, before = append(e.moves, m), m.after
	}
	return nil
}

// still is a window in which nothing changes.
func (e *elastic) still(ctx context.Context) (w window, err error) {
	if err := sleep(ctx, calmDown); err != nil {
		return w, err
	}
	w.from = time.Now()
	err = sleep(ctx, e.Window)
	w.to = time.Now()
	return w, err
}

// running is the nodes that run and are not drained.
func (e *elastic) running() (ids []string) {
	for id := range e.c.nodes {
		if !strings.HasPrefix(id, drainedMark) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// drainedMark stands before the name of a node that is drained.
const drainedMark = "drained "

// join starts nodes and waits until they share.
func (e *elastic) join(ctx context.Context, ids ...string) error {
	if err := e.launch(ctx, ids...); err != nil {
		return err
	}
	return e.c.share(ctx, e.running()...)
}

// launch starts nodes.
func (e *elastic) launch(ctx context.Context, ids ...string) error {
	for _, id := range ids {
		args := []string{"--listen", hubAddress + ":0"}
		if id == smallNode {
			nodes, _, err := e.c.list(ctx)
			if err != nil {
				return err
			}
			total := uint64(0)
			for _, n := range nodes {
				total += n.Bytes
			}
			args = append(args, "--capacity", fmt.Sprint(total/6/2))
		}
		if id == halfNode && e.Injects {
			args = append(args, "--inject", "slow=2")
		}
		if err := e.c.node(e.c.home, id, args...); err != nil {
			return err
		}
	}
	return nil
}

const (
	// shareGoal is when a new node should carry its share, shareWithin bounds the wait.
	shareGoal   = 5 * time.Second
	shareWithin = 15 * time.Second
	// partsEvery is how often is looked what the shares are.
	partsEvery = time.Second
)

// grow joins, and measures from when each new node has its weights until it carries its share.
func (e *elastic) grow(ctx context.Context, ids ...string) error {
	if err := e.launch(ctx, ids...); err != nil {
		return err
	}
	ready := map[string]time.Time{}
	waiting := slices.Clone(ids)
	var before map[string]*droverv1.NodeStatus
	var parts map[string]float64
	var looked time.Time
	look := func() (bool, error) {
		nodes, _, err := e.c.list(ctx)
		if err != nil {
			return false, err
		}
		if time.Since(looked) > partsEvery {
			looked = time.Now()
			if parts, err = e.parts(ctx); err != nil {
				return false, err
			}
		}
		waiting = slices.DeleteFunc(waiting, func(id string) bool {
			n := nodes[id]
			if n.GetState() != "ready" || n.GetReplicaCount() == 0 || parts[id] == 0 {
				return false
			}
			if _, known := ready[id]; !known {
				ready[id] = time.Now()
			}
			took := time.Since(ready[id])
			got := carried(id, before, nodes)
			switch {
			case id == halfNode && e.Injects && (4*got >= parts[id] || took >= shareWithin):
				e.half = append(e.half, min(took, shareWithin))
			case 2*got >= parts[id] || took >= shareWithin:
				e.shares = append(e.shares, min(took, shareWithin))
				if took > shareGoal {
					e.idle = append(e.idle, fmt.Sprintf("%s, with %d replicas and a speed of %.2f, got "+
						"%.3f of the rows after %.1f s and should get %.3f", id, n.ReplicaCount, n.Speed,
						got, took.Seconds(), parts[id]))
				}
			default:
				return false
			}
			return true
		})
		before = nodes
		return len(waiting) == 0, sleep(ctx, 80*time.Millisecond)
	}
	return await(ctx, time.Minute, fmt.Sprint(ids, " have their weights"), look)
}

// parts is each node's part of the rows by the placement and the load that was measured: those of
// an expert fall to its replicas alike. Where nothing was measured all experts get as many.
func (e *elastic) parts(ctx context.Context) (map[string]float64, error) {
	r, err := droverv1.NewClusterServiceClient(e.c.conn).GetPlacement(ctx,
		&droverv1.GetPlacementRequest{})
	if err != nil {
		return nil, fmt.Errorf("get the placement: %w", err)
	}
	parts, total := map[string]float64{}, 0.
	for _, l := range r.Layers {
		measured := slices.ContainsFunc(l.Experts,
			func(x *droverv1.ExpertReplicas) bool { return x.Load > 0 })
		for _, x := range l.Experts {
			load := x.Load
			if !measured {
				load = 1
			}
			total += load
			for _, id := range x.NodeIds {
				parts[id] += load / float64(len(x.NodeIds))
			}
		}
	}
	for id := range parts {
		parts[id] /= total
	}
	return parts, nil
}

// carried is a node's part of the rows since an earlier look.
func carried(id string, before, now map[string]*droverv1.NodeStatus) float64 {
	rows := func(id string) float64 {
		last := before[id].GetRowsDispatched()
		return float64(now[id].GetRowsDispatched() - min(last, now[id].GetRowsDispatched()))
	}
	total := 0.
	for id := range now {
		total += rows(id)
	}
	if before[id] == nil || total == 0 {
		return 0
	}
	return rows(id) / total
}

// leave ends nodes as Kubernetes does, all at once.
func (e *elastic) leave(_ context.Context, ids ...string) error {
	for _, id := range ids {
		e.c.nodes[id].signal(syscall.SIGTERM)
	}
	for _, id := range ids {
		p := e.c.nodes[id]
		p.end(syscall.Signal(0)) // it drains and ends by itself
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("%s ended with exit code %d", id, code)
		}
		delete(e.c.nodes, id)
	}
	return nil
}

func (e *elastic) drain(ctx context.Context, id string) error {
	_, err := droverv1.NewClusterServiceClient(e.c.conn).DrainNode(ctx,
		&droverv1.DrainNodeRequest{NodeId: id})
	if err != nil {
		return err
	}
	e.c.nodes[drainedMark+id] = e.c.nodes[id]
	delete(e.c.nodes, id)
	return await(ctx, time.Minute, id+" is drained", func() (bool, error) {
		nodes, _, err := e.c.list(ctx)
		return nodes[id].GetState() == "drained", err
	})
}

func (e *elastic) undo(ctx context.Context, id string) error {
	_, err := droverv1.NewClusterServiceClient(e.c.conn).DrainNode(ctx,
		&droverv1.DrainNodeRequest{NodeId: id, Undo: true})
	e.c.nodes[id] = e.c.nodes[drainedMark+id]
	delete(e.c.nodes, drainedMark+id)
	return err
}

// restart ends and starts one node after the other.
func (e *elastic) restart(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := e.leave(ctx, id); err != nil {
			return err
		}
		if err := e.join(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (e *elastic) report() ElasticReport {
	r := ElasticReport{Replicas: e.Replicas, Clients: e.Clients,
		WindowSeconds: e.Window.Seconds()}
	for _, name := range e.names {
		c := ElasticChange{Change: name}
		var seconds, ratios, quiet, moving, pauses, quietPauses []float64
		var allQuiet, allMoving []window
		for _, m := range e.moves {
			if m.name != name {
				continue
			}
			beside, in := e.load.itl(m.before, m.after), e.load.itl(m.moving)
			seconds = append(seconds, m.moving.to.Sub(m.moving.from).Seconds())
			ratios = append(ratios, in.P99/max(beside.P99, 1e-3))
			quiet, moving = append(quiet, beside.P99), append(moving, in.P99)
			pauses, quietPauses = append(pauses, in.Max), append(quietPauses, beside.Max)
			allQuiet, allMoving = append(allQuiet, m.before, m.after), append(allMoving, m.moving)
			c.Tokens += in.Count
		}
		c.Seconds, c.Ratio, c.QuietP99, c.P99 = spread(seconds), spread(ratios), spread(quiet),
			spread(moving)
		c.Pause, c.QuietPause = spread(pauses), spread(quietPauses)
		c.Pooled = e.load.itl(allMoving...).P99 / max(e.load.itl(allQuiet...).P99, 1e-3)
		r.Changes = append(r.Changes, c)
	}
	r.Ratio = spread(e.rounds())
	r.Shares, r.Share, r.HalfShare = len(e.shares), seconds(e.shares), seconds(e.half)
	r.HalfSpeed, r.Idle = e.Injects, e.idle
	r.Outcome = e.load.outcome()
	return r
}

// rounds is, of each round, the 99th percentile of ITL while anything changed over that of all
// quiet windows: a change of half a second has too few tokens of its own for one.
func (e *elastic) rounds() (ratios []float64) {
	for round := range slices.Chunk(e.moves, len(e.names)) {
		var quiet, moving []window
		for _, m := range round {
			quiet, moving = append(quiet, m.after), append(moving, m.moving)
		}
		quiet = append(quiet, round[0].before)
		ratios = append(ratios, e.load.itl(moving...).P99/max(e.load.itl(quiet...).P99, 1e-3))
	}
	return ratios
}

func seconds(times []time.Duration) Spread {
	var s []float64
	for _, t := range times {
		s = append(s, t.Seconds())
	}
	return spread(s)
}
