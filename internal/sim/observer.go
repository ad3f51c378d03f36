package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"drover/cluster"
	"drover/placement"
)

// observer looks at each write to the store, and at what nodes say against what they are.
type observer struct {
	world *world

	mu     sync.Mutex // guards the fields below, and the order of writes
	plan   *placement.Plan
	record []byte
	// owner committed it to store.
	owner string
	store *cluster.Memory
	// content is the plan without its revision, times how often that took the place of another.
	content string
	times   map[string]int
	changes int
}

// committed checks a write that a process has just done at a revision of the store. The
// caller holds mu.
func (o *observer) committed(c *storeClient, write cluster.Write, revision int64) {
	w := o.world
	record, commits := has(write, "/plan")
	if _, intends := has(write, "/intent"); !commits && !intends {
		return
	}
	elected := c.entry("placement/" + modelName + "/planner")
	if !strings.HasPrefix(string(elected), c.owner+"/") {
		w.problem("%s writes a plan, elected is %q", c.owner, elected)
	}
	if !commits {
		return
	}
	next, err := placement.Decode(record)
	if err != nil {
		w.problem("%s commits a plan that cannot be read: %v", c.owner, err)
		return
	}
	// A planner that was started after the store had lost its state knows of no revision if no
	// node that does has registered again: it begins anew (C3).
	store := c.memory.Load()
	knows := c.owner == o.owner || store == o.store
	if o.plan != nil && next.Revision <= o.plan.Revision && knows && !bytes.Equal(record, o.record) {
		w.problem("%s commits revision %d after %d", c.owner, next.Revision, o.plan.Revision)
	}
	// Of all that writes, only leases that expire do not take mu. One that did at this very
	// instant is not what the commit was to count on.
	_, now, err := c.memory.Load().List(context.Background(), "nothing")
	if !bytes.Equal(record, o.record) && err == nil && now == revision {
		o.covered(c, next)
	}
	o.steady(next)
	o.plan, o.record, o.owner, o.store = next, bytes.Clone(record), c.owner, store
}

// steady checks that plans do not go to and fro: a plan may be given up and come back as often
// as there are faults, and once more, and all plans together may change three times for a fault.
func (o *observer) steady(next *placement.Plan) {
	same := *next
	same.Revision = 0
	content := string(same.Encode())
	if content == o.content {
		return
	}
	if o.content = content; o.times == nil {
		o.times = map[string]int{}
	}
	o.times[content]++
	o.changes++
	w := o.world
	if faults := len(w.scenario.Faults); o.times[content] > 2+faults || o.changes > 4+3*faults {
		w.problem("revision %d is the change no. %d of the plan, and was there %d times before, with"+
			" %d faults", next.Revision, o.changes, o.times[content]-1, faults)
	}
}

// entry reads a key of the store.
func (c *storeClient) entry(key string) []byte {
	entries, _, err := c.memory.Load().List(context.Background(), "/drover/"+clusterName+"/"+key)
	if err != nil || len(entries) == 0 {
		return nil
	}
	return entries[0].Value
}

// readyRevision is the revision that a node says it has loaded, in which epoch; 0 if it
// says nothing or is not registered.
func (c *storeClient) readyRevision(id string) (revision, epoch uint64) {
	var r struct {
		Epoch    uint64 `json:"epoch"`
		Revision uint64 `json:"revision"`
	}
	if c.entry("nodes/"+id) == nil || json.Unmarshal(c.entry("ready/"+id), &r) != nil {
		return 0, 0
	}
	return r.Revision, r.Epoch
}

// banned tells whether the store says that a life of a node is in quarantine: for plans it is as
// good as lost.
func (c *storeClient) banned(id string, epoch uint64) bool {
	var all []cluster.Quarantine
	if json.Unmarshal(c.entry("placement/"+modelName+"/quarantine"), &all) != nil {
		return false
	}
	return slices.ContainsFunc(all, func(q cluster.Quarantine) bool {
		return q.InForce && q.NodeID == id && q.Epoch == epoch
	})
}

// covered checks that a plan leaves each expert with somebody who has it ready, unless there
// was nobody before, and that no node has more than its room.
func (o *observer) covered(c *storeClient, next *placement.Plan) {
	w := o.world
	ready := map[string]bool{}
	for _, n := range w.allNodes() {
		revision, epoch := c.readyRevision(n.id)
		ready[n.id] = revision >= next.Revision && !c.banned(n.id, epoch)
		if room := int(n.capacity / replicaBytes()); next.Count(n.id) > room {
			w.problem("revision %d gives %s %d replicas, it has room for %d",
				next.Revision, n.id, next.Count(n.id), room)
		}
		if _, uses := next.Index(n.id); uses && n.stranger {
			w.problem("revision %d uses %s, which has another checkpoint", next.Revision, n.id)
		}
	}
	has := func(p *placement.Plan, layer, e int) bool {
		for _, i := range p.On(layer, e) {
			if ready[p.NodeIDs[i]] {
				return true
			}
		}
		return false
	}
	for _, layer := range moeLayers {
		for e := range experts {
			if !has(next, layer, e) && (o.plan == nil || has(o.plan, layer, e)) {
				w.problem("revision %d has no ready replica of layer %d expert %d",
					next.Revision, layer, e)
			}
		}
	}
}

// honest checks what nodes say of themselves.
func (o *observer) honest() {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.world
	c := w.store.client("observer", newGate())
	for _, n := range w.allNodes() {
		l := n.current()
		if l == nil {
			continue
		}
		if l.host.Bytes() > n.capacity {
			w.problem("%s holds %d bytes, it has room for %d", n.id, l.host.Bytes(), n.capacity)
		}
		revision, epoch := c.readyRevision(n.id)
		if o.plan == nil || epoch != l.epoch || revision < o.plan.Revision {
			continue
		}
		for _, r := range o.plan.Holds(n.id) {
			if !l.host.Holds(r.Layer, r.Expert) {
				w.problem("%s says that it has loaded revision %d, and does not hold layer %d "+
					"expert %d of revision %d", n.id, revision, r.Layer, r.Expert, o.plan.Revision)
			}
		}
	}
}
