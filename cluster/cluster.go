// Package cluster keeps the processes of one cluster agreed on who is there and which
// node holds which replica.
//
// Etcd is the authority: nodes register in it under leases, one elected planner writes
// the placement. Memberlist spreads hints, which never decide anything. What a
// coordinator knows is one immutable placement.View.
//
// The keys lie under /drover/<cluster>/:
//
//	nodes/<id>                  under the node's lease: how to reach it, what it computes
//	drain/<id>                  an operator wants the node empty, whoever runs under its id
//	ready/<id>                  under the node's lease: the revision it has loaded
//	models/<form>/<coordinator> under its lease: the digest of the weights that it serves
//	placement/<model>/plan      the committed plan
//	placement/<model>/intent    the plan to come, or the committed one
//	placement/<model>/planner   under its lease: the elected planner
//	placement/<model>/quarantine what coordinators found out about nodes that compute wrongly
//	placement/<model>/rebalance written by who wants it to look at the load now
//	history/<model>/<revision>  the last committed plans
//
// What coordinators measured lies beside them, under /drover-load/<cluster>/.
//
// The rules that several files rely on:
//
//	C1  Add, verify, switch, drop. A plan is an intent first. Nodes load what it adds and
//	    say so in ready; only when all nodes of the intent have, it is committed; only
//	    then nodes drop what they no longer hold.
//	C2  One writer. Each write of the planner is conditional on its own election key and
//	    on the record it replaces, so that a planner that was paused and deposed changes
//	    nothing.
//	C3  A revision is used once. Each intent takes a number above all that are known: by the
//	    planner, the store and the nodes that are registered. A store that lost its state and
//	    a planner that began anew with nodes that are new begin at 1 again; bytes do not
//	    depend on it, and the next plan is above what nodes that return then tell.
//	C4  Absence of the store changes nothing. The last View stays valid, nodes go on
//	    serving, and for one lease time after the store's return nobody is taken for lost.
//	    The end of a registration is a reason to plan, not to stop sending rows: a node
//	    stays in the View as long as it is in the committed plan.
//	C6  A commit counts on what is so when it is done. At the store's revision of a commit,
//	    every expert has a replica whose node is registered and has said in this life that it
//	    has loaded the plan, unless no such node held it by the plan before. A lease that
//	    ends later is a loss like any other, and a life in quarantine is as good as lost.
//
// C5 is about quarantines: quarantine.go.
package cluster

import (
	"fmt"
	"time"
)

const (
	// DefaultTTL is how long a lease outlives its process.
	DefaultTTL = 5 * time.Second
	// LocalTTL is a lease for a cluster on one machine.
	LocalTTL = 2 * time.Second
	// minTTL keeps renewals from crowding the store.
	minTTL = time.Second

	root = "/drover/"
	// maxNameBytes bounds what becomes part of a key.
	maxNameBytes = 128
)

// Scope names what a process takes part in.
type Scope struct {
	// Cluster names the cluster; several may share one etcd. Empty means "default".
	Cluster string
	// Model is the digest of the model's checkpoint. Nodes of other models are ignored.
	Model string
}

func (s *Scope) setDefaults() {
	if s.Cluster == "" {
		s.Cluster = "default"
	}
}

func (s Scope) validate() error {
	if err := checkName("cluster", s.Cluster); err != nil {
		return err
	}
	return checkName("model digest", s.Model)
}

// checkName refuses what cannot be one part of a key.
func checkName(what, name string) error {
	if name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("cluster: %s %q, want 1 to %d bytes", what, name, maxNameBytes)
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == ':', c == '@':
		default:
			return fmt.Errorf("cluster: %s %q has %q; use letters, digits and - _ . : @",
				what, name, c)
		}
	}
	return nil
}

func (s Scope) prefix() string    { return root + s.Cluster + "/" }
func (s Scope) nodes() string     { return s.prefix() + "nodes/" }
func (s Scope) ready() string     { return s.prefix() + "ready/" }
func (s Scope) drain() string     { return s.prefix() + "drain/" }
func (s Scope) placement() string { return s.prefix() + "placement/" + s.Model + "/" }
func (s Scope) plan() string      { return s.placement() + "plan" }
func (s Scope) intent() string    { return s.placement() + "intent" }
func (s Scope) planner() string   { return s.placement() + "planner" }
func (s Scope) history() string   { return s.prefix() + "history/" + s.Model + "/" }

func (s Scope) historyOf(revision uint64) string {
	return fmt.Sprintf("%s%020d", s.history(), revision)
}
