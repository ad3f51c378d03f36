package cluster

import (
	"context"
	"slices"
	"time"

	"drover/placement"
)

// holding is what a node holds and does on the way to its target (C1). Only Member.run
// touches it.
type holding struct {
	m         *Member
	committed *placement.Plan // last told to Hooks.Commit

	// held are the replicas that Assign was ever asked for and Drop not; loaded are
	// those of the last Assign that succeeded.
	held          map[placement.Replica]bool
	loaded        []placement.Replica
	readyRevision uint64 // the revision of which all replicas are loaded; 0: none

	// The running Assign, if cancel is not nil.
	assigning target
	cancel    context.CancelFunc
	done      chan error
	failures  int
	retryAt   time.Time
	// givesWay is the revision of an intent for which a vanished plan's replicas are dropped:
	// loading it beside them failed, as it must where there is no room for both.
	givesWay uint64
	unable   Unable // to be told

	wanted []placement.Replica // of the last step
	since  time.Time           // when wanted changed

	published published
	replaced  bool
	left      bool // emptied is closed
}

// published is what the store says of the node.
type published struct {
	lease    Lease
	ready    uint64
	draining bool
	unable   Unable
}

// step compares what the node holds with its target, starts what is to be done, and
// returns when to look again.
func (r *holding) step(ctx context.Context, now time.Time) time.Duration {
	t := r.m.target()
	if t.committed == nil && t.revision == 0 {
		return forever // no plan yet, or a store that lost it: nothing to load or drop
	}
	if t.committed != nil && t.committed != r.committed {
		if r.committed == nil || r.committed.Revision != t.committed.Revision {
			r.m.hooks.Commit(t.committed.Revision, t.committed.Holds(r.m.cfg.Node.ID))
		}
		r.committed = t.committed
	}
	withdraws := false
	if t.instead != nil && r.givesWay == t.revision {
		t.replicas = t.instead
		if r.readyRevision < t.revision {
			r.readyRevision = 0
		}
		withdraws = r.published.ready > r.readyRevision
	}
	if !slices.Equal(r.wanted, t.replicas) {
		r.wanted, r.since = t.replicas, now
		r.failures, r.retryAt = 0, time.Time{}
	}
	if r.cancel != nil {
		if !slices.Equal(r.assigning.replicas, t.replicas) {
			r.cancel() // its done follows
		}
		r.assigning.revision = t.revision
		return forever
	}
	if withdraws {
		return retryDelay // what is dropped must not be told as loaded any more
	}
	wait := r.drop(t.replicas, now) // also before loading, which may need the room
	if !r.holdsAll(t.replicas) {
		if retry := r.retryAt.Sub(now); retry > 0 {
			return min(wait, retry)
		}
		r.assign(ctx, t)
		return forever
	}
	if r.readyRevision != t.revision {
		r.readyRevision = t.revision
		call1(r.m.cfg.Events.Ready, t.revision)
	}
	return wait
}

// holdsAll tells whether all of the replicas are loaded.
func (r *holding) holdsAll(replicas []placement.Replica) bool {
	return len(r.missing(replicas)) == 0
}

// missing lists those of the replicas that are not loaded.
func (r *holding) missing(replicas []placement.Replica) (out []placement.Replica) {
	for _, want := range replicas {
		if _, ok := slices.BinarySearchFunc(r.loaded, want, placement.Replica.Compare); !ok {
			out = append(out, want)
		}
	}
	return out
}

func (r *holding) assign(ctx context.Context, t target) {
	for _, replica := range t.replicas {
		r.held[replica] = true
	}
	missing := r.missing(t.replicas)
	ctx, r.cancel = context.WithCancel(ctx)
	r.assigning = t
	if f := r.m.cfg.Events.Assigning; f != nil {
		f(t.revision, len(t.replicas))
	}
	r.m.running.Go(func() {
		if locate := r.m.hooks.Locate; locate != nil {
			holders := r.m.holders(ctx, t)
			if complete(t.committed, missing, holders) {
				pause(ctx, r.m.turn(t.newest))
			}
			locate(holders)
		}
		r.done <- r.m.hooks.Assign(ctx, t.replicas)
	})
}

// assigned takes the result of Assign.
func (r *holding) assigned(now time.Time, err error) {
	r.cancel()
	r.cancel = nil
	if err == nil {
		r.loaded, r.failures, r.unable = r.assigning.replicas, 0, Unable{}
		return
	}
	if !slices.Equal(r.assigning.replicas, r.wanted) {
		return // cancelled for another target
	}
	r.retryAt = now.Add(min(time.Second<<min(r.failures, 5), 30*time.Second))
	r.failures++
	if r.assigning.instead != nil && r.givesWay != r.assigning.revision {
		r.givesWay = r.assigning.revision
		return
	}
	if r.holdsMore() {
		return // it may go when that is dropped
	}
	r.unable = r.unable.unableTo(r.assigning.revision, err)
	if f := r.m.cfg.Events.AssignFailed; f != nil {
		f(r.assigning.revision, err)
	}
}

// holdsMore tells whether there are replicas to drop.
func (r *holding) holdsMore() bool {
	for held := range r.held {
		if _, ok := slices.BinarySearchFunc(r.wanted, held, placement.Replica.Compare); !ok {
			return true
		}
	}
	return false
}

// drop gives up what is not wanted any more, after the grace.
func (r *holding) drop(wanted []placement.Replica, now time.Time) time.Duration {
	isWanted := func(held placement.Replica) bool {
		_, ok := slices.BinarySearchFunc(wanted, held, placement.Replica.Compare)
		return ok
	}
	var extra []placement.Replica
	for held := range r.held {
		if !isWanted(held) {
			extra = append(extra, held)
		}
	}
	if len(extra) == 0 {
		return forever
	}
	if wait := r.since.Add(r.m.cfg.Grace).Sub(now); wait > 0 {
		return wait
	}
	for _, held := range extra {
		delete(r.held, held)
	}
	slices.SortFunc(extra, placement.Replica.Compare)
	r.loaded = slices.DeleteFunc(slices.Clone(r.loaded),
		func(held placement.Replica) bool { return !isWanted(held) })
	r.retryAt = time.Time{} // what failed for lack of room may go now
	r.m.hooks.Drop(extra)
	return forever
}

// cancelAssign ends a running Assign and waits for it.
func (r *holding) cancelAssign() {
	if r.cancel != nil {
		r.cancel()
		<-r.done
		r.cancel = nil
	}
}
