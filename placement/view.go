package placement

// Node is one expert node as it registered itself.
type Node struct {
	// ID names the node for as long as its state folder lives.
	ID string
	// Address is the host:port of its ExpertService.
	Address string
	// Epoch counts the node's lives; a stream of an earlier epoch is stale.
	Epoch uint64
	// CapacityBytes is the room for packed weights.
	CapacityBytes int64
	// Speed is the node's rate relative to the others; 0 means 1.
	Speed float64
	// Domain is the failure domain: replicas of one expert avoid sharing it.
	Domain string
	// KernelClass and ModelDigest say what the node computes and with what.
	KernelClass string
	ModelDigest string
	// ModelForm is the form of its checkpoint, which other trainings of it share. DigestFrom
	// says who told the node the digest if it has no weights to compute it from; else empty.
	ModelForm, DigestFrom string
	// Draining says that the node is to be emptied: no plan gives it a replica any more. It
	// serves what the committed plan gives it until another plan is in force.
	Draining bool
	// Host and PID locate the process for people.
	Host string
	PID  int
}

// View is one immutable picture of the cluster: the committed plan and the nodes
// that may serve it. It is replaced whole, never edited.
type View struct {
	// Plan is the committed plan; its revision numbers the placement.
	Plan *Plan
	// Nodes holds by ID the registered nodes, and those of the plan that were: a
	// registration may end before its node. A node of the plan may be missing here: it is
	// then not to be dispatched to.
	Nodes map[string]Node
	// Suspect marks nodes that gossip believes dead, or whose registration has ended: a
	// hint, never a verdict.
	Suspect map[string]bool
	// Unready marks nodes of the plan that were started anew and have yet to load anything: what
	// is sent to them is refused.
	Unready map[string]bool
}

// Plan says which nodes hold a ready replica of each expert. The zero Plan places nothing.
type Plan struct {
	// Revision numbers committed plans, rising; 0 means that none was committed.
	Revision uint64
	// Layers lists the model's MoE layers, ascending.
	Layers []int
	// Experts is the number of experts in each layer.
	Experts int
	// NodeIDs lists the nodes that the plan uses, ascending. Replicas refer to it by index.
	NodeIDs []string
	// Replicas holds, for each layer (by its position in Layers) and expert, the
	// indices into NodeIDs of the nodes that hold it, ascending.
	Replicas [][][]uint16
}
