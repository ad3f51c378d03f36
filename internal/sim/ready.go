package sim

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// A coordinator proves that it is ready as a real one does: a canary token passes through
// every layer now and then, or one of a request's while that waits behind requests.
const (
	canaryEvery   = 2 * time.Second
	canaryTimeout = 5 * time.Second
	// toldWithin is how long a coordinator may not be ready although it could be.
	toldWithin = canaryEvery + canaryTimeout + time.Second
	// severedFor is how long it may be ready although an expert is out of reach. The canary
	// visits some experts of each layer; the others' links are asked for signs of life.
	severedFor = 5 * time.Second
	// linksEvery is how often a coordinator that is ready looks at its links.
	linksEvery = 250 * time.Millisecond
)

var canary = &droverv1.GenerateRequest{
	Prompt:    &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: []int32{1}}},
	MaxTokens: 1, IgnoreEos: true}

// keepReady says again and again whether the coordinator is ready.
func (p *process) keepReady(ctx context.Context) {
	for {
		ready := p.world.boasts || p.proves(ctx)
		if ctx.Err() != nil {
			return
		}
		p.say(ready)
		p.lookAtLinks()
		wait := canaryEvery // one that is not ready looks more often
		if !ready {
			wait = lookEvery
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// keepLinks looks at the links again and again, also while a canary waits.
func (p *process) keepLinks(ctx context.Context) {
	for sleep(ctx, linksEvery) {
		p.lookAtLinks()
	}
}

// say is what the coordinator says of itself from now on.
func (p *process) say(ready bool) {
	if p.ready.Swap(ready) != ready {
		p.world.say("coordinator %s ready: %t", p.id, ready)
	}
}

// lookAtLinks ends the readiness of a coordinator that cannot reach an expert.
func (p *process) lookAtLinks() {
	w := p.world
	if p.ready.Load() && !w.boasts && !w.scenario.Local && p.router.Ready() != nil {
		p.say(false)
	}
}

func (p *process) proves(ctx context.Context) bool {
	if !p.world.scenario.Local && p.router.Ready() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	before := p.engine.Stats()
	err := p.engine.Generate(canary, &client{ctx: ctx})
	after := p.engine.Stats()
	return err == nil || status.Code(err) == codes.DeadlineExceeded &&
		after.Steps-after.FailedSteps > before.Steps-before.FailedSteps
}

// reach is how well a coordinator can reach all experts.
type reach int

const (
	unclear reach = iota // faults may or may not keep an expert away
	fully                // every expert is on a healthy node behind a healthy link
	severed              // an expert is on no node that is there and hears the coordinator
)

// reaches looks at the nodes and links, not at what anybody believes of them.
func (p *process) reaches() reach {
	v := p.watcher.View()
	if v.Plan.Revision == 0 {
		return severed
	}
	health := map[string]reach{}
	for _, n := range p.world.allNodes() {
		health[n.id] = n.health(v.Nodes[n.id].Epoch, p.slot)
	}
	all := fully
	for _, layer := range moeLayers {
		for e := range experts {
			best := severed
			for _, i := range v.Plan.On(layer, e) {
				switch h := health[v.Plan.NodeIDs[i]]; {
				case h == fully:
					best = fully
				case h == unclear && best == severed:
					best = unclear
				}
			}
			if best == severed {
				return severed
			}
			if best == unclear {
				all = unclear
			}
		}
	}
	return all
}

// health says whether the life of a node that has an epoch is there and can be heard by a
// coordinator.
func (n *node) health(epoch uint64, from int) reach {
	n.mu.Lock()
	l := n.life
	well := n.slow <= 1 && n.forgets+n.overloaded+n.wrong+n.panics == 0 && !n.spoilt
	n.mu.Unlock()
	n.link.mu.Lock()
	defer n.link.mu.Unlock()
	switch {
	case l == nil || n.link.silent(from):
		return severed
	case l.epoch != epoch || !well || n.link.slow > 0 || n.link.delay+n.link.far[from] > 0 ||
		time.Since(n.link.hurt) < 2*lookEvery:
		return unclear
	}
	return fully
}

// look compares what coordinators say of themselves with what is.
func (p *process) look(now time.Time) {
	is := p.reaches()
	if is != p.reach {
		p.reach, p.reachSince = is, now
	}
	w, ready := p.world, p.ready.Load()
	if ready || p.unreadySince.IsZero() {
		p.unreadySince = now
	}
	if w.scenario.Local || p.lied {
		return
	}
	since := now.Sub(p.reachSince)
	if !ready { // a node that has just begun another life may end the readiness of before
		since = min(since, now.Sub(p.unreadySince))
	}
	if ready && is == severed && since >= severedFor || !ready && is == fully && since >= toldWithin {
		p.lied = true
		w.problem("%s says ready: %t, and for %v every expert was within reach: %t", p.id, ready,
			since, is == fully)
	}
}
