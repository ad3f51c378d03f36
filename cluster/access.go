package cluster

// What the processes of a cluster need of the store, as prefixes of keys. Coordinators plan,
// and write everything. A node reads the cluster and writes what it says of itself. A store
// that knows its users by their certificate's role cannot tell one node from another: a node
// may write, or delete, another node's registration.

// CoordinatorKeys are the prefixes that a coordinator reads and writes.
func CoordinatorKeys(cluster string) []string {
	s := Scope{Cluster: cluster}
	s.setDefaults()
	return []string{s.prefix(), loadRoot + s.Cluster + "/"}
}

// NodeKeys are the prefixes that an expert node reads, and those that it writes.
func NodeKeys(cluster string) (read, write []string) {
	s := Scope{Cluster: cluster}
	s.setDefaults()
	return []string{s.prefix()}, []string{s.nodes(), s.ready()}
}
