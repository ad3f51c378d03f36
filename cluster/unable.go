package cluster

import (
	"maps"
	"slices"
	"strings"
	"time"

	"drover/placement"
)

// A node that cannot load what a plan gives it (memory, disk, a source that refuses) says so in
// its record at once. The planner then lets it keep what it has loaded and gives the rest to
// others. It tries the node again after a pause that doubles with each plan in a row that the
// node could not load, up to LoadTimeout, so that a node that stays broken makes few plans. The
// count is the node's own, so that a planner that takes over goes on with the same pauses.

// Unable is what a node says of itself: that it could not load what a plan gives it.
type Unable struct {
	// Revision is that of the plan. Zero means that the node is able.
	Revision uint64 `json:"revision"`
	// Failures counts the plans in a row, this one included, that it could not load.
	Failures int `json:"failures"`
	// Reason is the error, for people.
	Reason string `json:"reason"`
}

// unableTo is the next word after one: now err kept the node from loading a plan. Of one plan
// there is one word, however often it is tried.
func (u Unable) unableTo(revision uint64, err error) Unable {
	if u.Revision == revision {
		return u
	}
	reason := err.Error()
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxFieldBytes)], "")
	return Unable{revision, min(u.Failures+1, maxFailures), reason}
}

// maxFailures bounds the count: the pause is longest long before.
const maxFailures = 1 << 10

// setback is what the planner made of a node's last word.
type setback struct {
	epoch, revision uint64
	until           time.Time // when to give the node more again
}

// setbackPause is how long a node is given no more after so many plans that it could not load.
func (p *Planner) setbackPause(failures int) time.Duration {
	pause := max(p.opts.LoadTimeout/64, time.Second)
	return min(pause<<min(max(failures, 1)-1, 6), p.opts.LoadTimeout)
}

// limited tells whether a node is to be given no more than it has: it said that it cannot load
// it, and the pause is not over or the very plan that it could not load still wants it to.
func (p *Planner) limited(s *state, id string, now time.Time) bool {
	n := s.nodes[id]
	if n.Unable.Revision == 0 {
		delete(p.setbacks, id)
		return false
	}
	b := p.setbacks[id]
	if b.epoch != n.Epoch || b.revision != n.Unable.Revision {
		pause := p.setbackPause(n.Unable.Failures)
		b = setback{n.Epoch, n.Unable.Revision, now.Add(pause)}
		p.setbacks[id] = b
		if f := p.opts.Events.Limited; f != nil {
			f(id, n.Unable.Reason, pause)
		}
	}
	loading := s.plan
	if intent := s.pending(); intent != nil {
		loading = intent
	}
	return now.Before(b.until) ||
		loading.Count(id) > 0 && loading.Revision == b.revision
}

// confine leaves a limited node the room for what it has loaded. It is false if that is nothing,
// or less than what the committed plan gives it, as after a restart: then it has no part.
func (p *Planner) confine(s *state, n *placement.Node) bool {
	count := s.plan.Count(n.ID)
	if count == 0 || s.nodes[n.ID].Revision < s.plan.Revision || s.readyMod[n.ID] == 0 {
		return false
	}
	n.CapacityBytes = int64(count) * p.opts.ReplicaBytes
	return true
}

// eligible lists the usable nodes that are not left out, with the room that they may use.
func (p *Planner) eligible(s *state, now time.Time) []placement.Node {
	maps.DeleteFunc(p.setbacks, func(id string, _ setback) bool { return !s.nodes[id].Registered })
	var nodes []placement.Node
	for _, n := range s.usable() {
		if now.Before(p.leftOut[n.ID]) || p.shrunk(s, n) ||
			p.limited(s, n.ID, now) && !p.confine(s, &n) {
			continue
		}
		nodes = append(nodes, n)
	}
	if !slices.Equal(nodes, p.nodes) || p.nodesSince.IsZero() {
		p.nodes, p.nodesSince = nodes, now
	}
	return nodes
}
