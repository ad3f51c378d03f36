// Package localcluster runs a whole cluster on one machine: etcd and a coordinator in
// this process, and expert nodes as processes of their own; several coordinators are
// processes of their own, too.
package localcluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"drover/cluster"
	"drover/cluster/etcdserver"
	"drover/internal/identity"
	"drover/internal/role"
	"drover/kernel"
	"drover/model"
)

// Options describes a cluster. ModelDir and Mode are required.
type Options struct {
	ModelDir string
	Mode     kernel.Mode
	// Threads is how many compute in the coordinator, NodeThreads how many in each expert
	// node. Zero means one.
	Threads, NodeThreads int
	// Device is what computes, as role.ParseDevice reads it; with auto nodes take GPUs in turn.
	Device string
	// Cache is the folder of packed weights; empty keeps none.
	Cache string
	// Nodes is the number of expert-node processes, Replicas that of each expert's copies.
	Nodes, Replicas int
	// RestartAfter is the wait before a process that ended is started again. It doubles, up to
	// 5 seconds, while the process does not stay for half a minute. Zero means 100 ms; with hours
	// a node that is gone stays away.
	RestartAfter time.Duration
	// Coordinators is how many serve. Zero means 1.
	Coordinators int
	// LastResort is for experts that no node computes.
	LastResort role.LastResort
	// CheckFraction is the part of frames that are computed twice and compared.
	CheckFraction float64
	// StateDir keeps etcd's state. Empty means a temporary folder that Close removes.
	StateDir string
	// Plaintext makes all hops plain text. Unless it is set, the processes use mutual TLS among
	// themselves and to etcd, and serve clients by TLS, with certificates of an authority of
	// their own under the state folder.
	Plaintext bool
	// KnownDir is where clients of this user look for the authority of a cluster by its address
	// (KnownAuthority). Empty tells nobody.
	KnownDir string
	// GRPC and HTTP are the addresses to serve. Empty means the usual one, or a free
	// port where that is taken. Coordinators after the first take free ports.
	GRPC, HTTP string
	// Version is this program's, for the metrics.
	Version string
	// Log takes what happens, Stderr what the node processes print.
	Log    *slog.Logger
	Stderr io.Writer
}

// The usual addresses.
const (
	usualGRPC  = "127.0.0.1:7070"
	usualHTTP  = "127.0.0.1:8080"
	usualAdmin = "127.0.0.1:9090"
)

// Cluster is a running cluster.
type Cluster struct {
	// GRPC, HTTP, Admin and Etcd are the addresses that are served; of several coordinators,
	// the first's.
	GRPC, HTTP, Admin, Etcd string
	// NodeAdmins are the addresses of the nodes' health and metrics, by node ID.
	NodeAdmins map[string]string
	// Coordinators are all coordinators' addresses.
	Coordinators []Endpoint
	// Nodes is the number of expert nodes; a dense model has none.
	Nodes int
	// Authority is the file of the authority that signed what clients see; empty without TLS.
	// Known tells whether clients of this user find it by themselves.
	Authority string
	Known     bool
	// Conn reaches the coordinator, without a network if it is the only one.
	Conn *grpc.ClientConn

	identities identities
	undo       []func()
}

// Start runs a cluster and returns when it answers: every expert has a ready replica
// and a token has passed through every layer.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{}
	if err := c.start(ctx, o); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, o Options) error {
	if err := c.look(&o); err != nil {
		return err
	}
	dir, err := c.stateDir(o.StateDir)
	if err != nil {
		return err
	}
	// The ports first: a port that is taken is the commonest mistake.
	var r roles
	if o.Coordinators > 1 {
		err = c.reserveAll(o)
	} else {
		err = c.listen(o, &r)
	}
	if err != nil {
		return err
	}
	if err := c.reserveAdmins(); err != nil {
		return err
	}
	if err := c.startEtcd(ctx, o, dir); err != nil {
		return err
	}
	if r.gossipKey, err = gossipKey(); err != nil {
		return err
	}
	if r.nodes, err = newNursery(o); err != nil {
		return err
	}
	c.push(r.nodes.close)
	if o.Coordinators > 1 {
		err = c.startCoordinators(ctx, o, r.gossipKey, r.nodes)
	} else {
		err = c.startRoles(ctx, o, r)
	}
	if err != nil {
		return err
	}
	c.makeKnown(o)
	return nil
}

// startEtcd runs the member, and makes the certificates first unless all is plain text.
func (c *Cluster) startEtcd(ctx context.Context, o Options, dir string) error {
	options := etcdserver.Options{Dir: filepath.Join(dir, "etcd"),
		Warn: func(m string) { o.Log.Debug("etcd", "message", m) }}
	var id *identity.Source
	if !o.Plaintext {
		var err error
		if c.identities, err = openIdentities(dir, c.hosts(), time.Now()); err != nil {
			return err
		}
		c.Authority = filepath.Join(c.identities.authorityDir(), identity.AuthorityFile)
		c.push(c.identities.keep(func(err error) {
			o.Log.Error("certificates are not renewed; they are tried again in an hour", "error", err)
		}))
		folder := c.identities.of(identity.Etcd)
		if id, err = identity.Open(folder, role.IdentityEvents(o.Log)); err != nil {
			return err
		}
		c.push(id.Close)
		options.ClientTLS, options.PeerTLS = role.EtcdTLS(folder)
		options.ClientURL, options.PeerURL = "https://127.0.0.1:0", "https://127.0.0.1:0"
	} else if _, err := os.Stat(filepath.Join(dir, "tls")); err == nil {
		return fmt.Errorf("the state in %s is of a cluster with certificates, without which its "+
			"etcd lets nobody in: leave out --plaintext, or give another folder", dir)
	}
	etcd, err := etcdserver.Start(ctx, options)
	if err != nil {
		return err
	}
	c.push(etcd.Close)
	c.Etcd = etcd.Endpoint()
	if id != nil {
		return role.SecureEtcd(ctx, c.Etcd, id)
	}
	return nil
}

// listen takes the ports of the only coordinator.
func (c *Cluster) listen(o Options, r *roles) (err error) {
	if r.grpc, err = listen("gRPC", o.GRPC, usualGRPC); err != nil {
		return err
	}
	c.push(func() { _ = r.grpc.Close() }) // closed by its server before, as a rule
	if r.http, err = listen("HTTP", o.HTTP, usualHTTP); err != nil {
		return err
	}
	c.push(func() { _ = r.http.Close() })
	if r.admin, err = listen("health and metrics", "", usualAdmin); err != nil {
		return err
	}
	c.push(func() { _ = r.admin.Close() })
	c.GRPC, c.HTTP = r.grpc.Addr().String(), r.http.Addr().String()
	c.Admin = r.admin.Addr().String()
	c.Coordinators = []Endpoint{{c.GRPC, c.HTTP, c.Admin}}
	return nil
}

// reserveAdmins takes a port for each node's health and metrics.
func (c *Cluster) reserveAdmins() error {
	c.NodeAdmins = map[string]string{}
	for i := range c.Nodes {
		address, release, err := reserve("127.0.0.1:0")
		if err != nil {
			return err
		}
		c.push(release)
		c.NodeAdmins["node-"+strconv.Itoa(i+1)] = address
	}
	return nil
}

// look opens the model, so that one that cannot be served is one error and not one
// for each process. A dense model has no work for expert nodes.
func (c *Cluster) look(o *Options) error {
	m, err := role.OpenModel(o.ModelDir, model.Options{Mode: o.Mode})
	if err != nil {
		return err
	}
	if len(m.Spec.MoE.Layers) == 0 {
		o.Nodes = 0
	}
	c.Nodes = o.Nodes
	return m.Close()
}

// roles is what the coordinator and the nodes are started with.
type roles struct {
	grpc, http, admin net.Listener
	gossipKey         string
	nodes             *nursery
}

func (c *Cluster) startRoles(ctx context.Context, o Options, r roles) error {
	etcd := cluster.EtcdConfig{Endpoints: []string{c.Etcd}}
	var id *identity.Source
	if folder := c.identities.of(identity.Coordinator); folder != "" {
		var err error
		if id, err = identity.Open(folder, role.IdentityEvents(o.Log)); err != nil {
			return err
		}
		c.push(id.Close)
		etcd.TLS = id.Client(identity.Etcd)
	}
	store, err := cluster.OpenEtcd(etcd)
	if err != nil {
		return err
	}
	c.push(func() { _ = store.Close() })
	gossip, err := role.ListenGossip("coordinator", "127.0.0.1:0",
		role.GossipSecret{Text: r.gossipKey}, o.Log)
	if err != nil {
		return err
	}
	r.nodes.run(c.children(o, gossip.Address, r.gossipKey))
	coordinator, err := role.StartCoordinator(ctx, role.CoordinatorOptions{
		ModelDir: o.ModelDir, Mode: o.Mode,
		Compute:  role.Compute{Device: o.Device, Threads: o.Threads},
		Weights:  role.Weights{Cache: o.Cache},
		Identity: id, Store: store, MinNodes: o.Nodes, Replicas: o.Replicas,
		LastResort: o.LastResort, CheckFraction: o.CheckFraction,
		GRPC: r.grpc, HTTP: r.http, Clients: id, Version: o.Version,
		Admin:  role.Admin{Listener: r.admin, Identity: id},
		Gossip: gossip, AllowScore: true, ShortLease: true, Log: o.Log,
	})
	if err != nil {
		return err
	}
	c.push(coordinator.Close)
	c.Conn = coordinator.Conn
	return coordinator.WaitReady(ctx)
}

// children are the expert nodes' command lines.
func (c *Cluster) children(o Options, gossip, key string) []child {
	var all []child
	gpus := role.GPUs(o.Device)
	for i := range o.Nodes {
		device := o.Device
		if len(gpus) > 0 {
			device = gpus[i%len(gpus)]
		}
		id := "node-" + strconv.Itoa(i+1)
		all = append(all, child{name: id, env: []string{"DROVER_GOSSIP_KEY=" + key}, args: []string{
			"expertnode", "--etcd", c.Etcd, "--model", o.ModelDir, "--mode", o.Mode.String(),
			"--threads", strconv.Itoa(max(o.NodeThreads, 1)), "--cache", cacheArgument(o),
			"--device", device,
			"--id", id, "--listen", "127.0.0.1:0", "--admin", c.NodeAdmins[id],
			"--domain", id, "--gossip", "127.0.0.1:0",
			"--join", gossip, "--short-lease", "--with-parent"}})
		all[i].args = append(all[i].args, c.identities.arguments(identity.ExpertNode)...)
	}
	return all
}

// Close ends the cluster, waits for its processes and removes a temporary folder.
func (c *Cluster) Close() {
	for len(c.undo) > 0 {
		last := len(c.undo) - 1
		f := c.undo[last]
		c.undo = c.undo[:last]
		f()
	}
}

func (c *Cluster) push(f func()) { c.undo = append(c.undo, f) }

// stateDir makes the state folder, or a temporary one that Close removes.
func (c *Cluster) stateDir(dir string) (string, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("make the state folder: %w", err)
		}
		return dir, nil
	}
	dir, remove, err := temporary(os.TempDir())
	if err != nil {
		return "", err
	}
	c.push(remove)
	return dir, nil
}

// listen takes the address that was asked for or, if none was, the usual one or a
// free port of the same host.
func listen(what, address, usual string) (net.Listener, error) {
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("serve %s on %s: %w", what, address, err)
		}
		return l, nil
	}
	if l, err := net.Listen("tcp", usual); err == nil {
		return l, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve %s on a free port: %w", what, err)
	}
	return l, nil
}

// gossipKey makes the key with which this cluster's gossip is encrypted.
func gossipKey() (string, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return "", fmt.Errorf("make a gossip key: %w", err)
	}
	return hex.EncodeToString(key), nil
}
