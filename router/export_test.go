package router

// SetPick makes the Router choose among equally good replicas with pick, which gets
// their number.
func (o *Options) SetPick(pick func(n int) int) { o.pick = pick }
