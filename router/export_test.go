package router

// SetPick makes the Router choose among equally good replicas with pick, which gets
// their number.
func (o *Options) SetPick(pick func(n int) int) { o.pick = pick }

// SpendHedges leaves nothing that may be sent twice. No Forward may run.
func (r *Router) SpendHedges() {
	for _, l := range r.lanes {
		l.extra.rows = -1 << 40
	}
}
