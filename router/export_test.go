package router

import "weak"

// SetPick makes the Router choose among equally good replicas with pick, which gets
// their number.
func (o *Options) SetPick(pick func(n int) int) { o.pick = pick }

// SpendHedges leaves nothing that may be sent twice. No Forward may run.
func (r *Router) SpendHedges() {
	for _, l := range r.lanes {
		l.extra.rows = -1 << 40
	}
}

// Sessions tells how many of the sessions that there are now are still in memory.
func (r *Router) Sessions() (alive func() int) {
	var all []weak.Pointer[session]
	for _, k := range r.linksOf(nil) {
		if s := k.session.Load(); s != nil {
			all = append(all, weak.Make(s))
		}
	}
	return func() (n int) {
		for _, w := range all {
			if w.Value() != nil {
				n++
			}
		}
		return n
	}
}
