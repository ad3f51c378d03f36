package cluster

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	minSecretBytes = 16
	// maxSecrets bounds what is tried for each packet that comes.
	maxSecrets  = 8
	rejoinEvery = 5 * time.Second
)

// GossipOptions says how a process takes part in the gossip.
type GossipOptions struct {
	// Name is the node's or the coordinator's ID, unique in the cluster.
	Name string
	// Address is the host:port to listen on, by UDP and TCP; port 0 takes a free one.
	// Empty means 127.0.0.1:0.
	Address string
	// Advertise is the host:port that others reach. Empty means the bound address.
	Advertise string
	// Secrets are shared by all processes of the cluster, at least 16 bytes each. Gossip is
	// always encrypted and authenticated with a key derived from the first; what comes may
	// have any of them.
	Secrets [][]byte
	// Seeds returns addresses of others to join, now and whenever one of them is not a
	// member. Nil means none.
	Seeds func() []string
	// Meta is what this process says of itself at first, at most 512 bytes.
	Meta []byte
	// Events reports what happens.
	Events GossipEvents
}

// GossipEvents are called from the Gossip's goroutines and must return soon. Each may
// be nil.
type GossipEvents struct {
	// Hint says that a process is alive, and what it says of itself, or seems to be dead.
	// It is a hint: leases and requests decide.
	Hint func(name string, alive bool, meta []byte)
	// Log passes on memberlist's log lines.
	Log func(line string)
}

// Gossip spreads hints about liveness and load. Nothing waits for it.
type Gossip struct {
	opts    GossipOptions
	list    *memberlist.Memberlist
	stop    context.CancelFunc
	running sync.WaitGroup

	keysMu sync.Mutex // one change of the keys at a time
	keys   *memberlist.Keyring

	mu    sync.Mutex // guards the fields below
	meta  []byte
	hints map[string]hint // not yet reported, by name
	wake  chan struct{}   // has room for one
	// members are the addresses of those alive, by name: memberlist's own nodes change
	// under their readers.
	members map[string]string
}

type hint struct {
	alive bool
	meta  []byte
}

// StartGossip starts to listen and to join the seeds.
func StartGossip(ctx context.Context, opts GossipOptions) (*Gossip, error) {
	if err := checkName("gossip name", opts.Name); err != nil {
		return nil, err
	}
	keys, err := gossipKeys(opts.Secrets)
	if err != nil {
		return nil, err
	}
	opts.Secrets = nil
	g := &Gossip{opts: opts, hints: map[string]hint{}, wake: make(chan struct{}, 1),
		members: map[string]string{}}
	if err := g.checkMeta(opts.Meta); err != nil {
		return nil, err
	}
	g.meta = slices.Clone(opts.Meta)
	cfg, err := g.config()
	if err != nil {
		return nil, err
	}
	if g.keys, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
		return nil, fmt.Errorf("cluster: gossip keys: %w", err)
	}
	cfg.Keyring = g.keys
	if g.list, err = memberlist.Create(cfg); err != nil {
		return nil, fmt.Errorf("cluster: gossip on %s: %w", opts.Address, err)
	}
	ctx, g.stop = context.WithCancel(ctx)
	g.running.Go(func() { g.report(ctx) })
	g.running.Go(func() { g.rejoin(ctx) })
	return g, nil
}

// config is memberlist's profile for a fast network: a death is known in about a second.
func (g *Gossip) config() (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	c.Name = g.opts.Name
	c.ProbeInterval, c.ProbeTimeout = 200*time.Millisecond, 100*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 2
	c.GossipInterval, c.AwarenessMaxMultiplier = 50*time.Millisecond, 2
	c.TCPTimeout = time.Second
	c.Delegate, c.Events = g, g
	c.Logger = log.New(lineWriter{g.opts.Events.Log}, "", 0)
	address := g.opts.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	var err error
	if c.BindAddr, c.BindPort, err = hostPort(address); err != nil {
		return nil, err
	}
	c.AdvertisePort = 0
	if g.opts.Advertise != "" {
		c.AdvertiseAddr, c.AdvertisePort, err = hostPort(g.opts.Advertise)
	}
	return c, err
}

// gossipKeys derives memberlist's keys from secrets.
func gossipKeys(secrets [][]byte) ([][]byte, error) {
	if len(secrets) == 0 || len(secrets) > maxSecrets {
		return nil, fmt.Errorf("cluster: gossip: %d secrets, want 1 to %d", len(secrets), maxSecrets)
	}
	var keys [][]byte
	for _, secret := range secrets {
		if len(secret) < minSecretBytes {
			return nil, fmt.Errorf("cluster: gossip: a secret of %d bytes, at least %d; all"+
				" processes of the cluster need the same", len(secret), minSecretBytes)
		}
		key, err := hkdf.Key(sha256.New, secret, nil, "drover gossip 1", 32)
		if err != nil {
			return nil, fmt.Errorf("cluster: gossip key: %w", err)
		}
		if !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// SetSecrets changes the secrets while the gossip goes on, in the sense of GossipOptions. To
// change the secret of a cluster, give all processes the old and the new one, then the new
// and the old one, then the new one.
func (g *Gossip) SetSecrets(secrets [][]byte) error {
	keys, err := gossipKeys(secrets)
	if err != nil {
		return err
	}
	g.keysMu.Lock()
	defer g.keysMu.Unlock()
	ring := g.keys
	for _, key := range keys {
		if err := ring.AddKey(key); err != nil {
			return fmt.Errorf("cluster: gossip key: %w", err)
		}
	}
	// Those to keep move to the front, the first last, so that what is removed is at the end:
	// from anywhere else RemoveKey would shift keys that memberlist reads meanwhile.
	for _, key := range slices.Backward(keys) {
		if err := ring.UseKey(key); err != nil {
			return fmt.Errorf("cluster: gossip key: %w", err)
		}
	}
	for all := ring.GetKeys(); len(all) > len(keys); all = ring.GetKeys() {
		if err := ring.RemoveKey(all[len(all)-1]); err != nil {
			return fmt.Errorf("cluster: gossip key: %w", err)
		}
	}
	return nil
}

func hostPort(address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("cluster: gossip address %q: want host:port", address)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("cluster: gossip address %q: port %q is no number", address, text)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, int(port), nil
}

// Address returns the host:port that others can join.
func (g *Gossip) Address() string { return g.list.LocalNode().Address() }

// SetMeta changes what this process says of itself, at most 512 bytes.
func (g *Gossip) SetMeta(meta []byte) error {
	if err := g.checkMeta(meta); err != nil {
		return err
	}
	g.mu.Lock()
	g.meta = slices.Clone(meta)
	g.mu.Unlock()
	if err := g.list.UpdateNode(time.Second); err != nil {
		return fmt.Errorf("cluster: gossip metadata: %w", err)
	}
	return nil
}

func (g *Gossip) checkMeta(meta []byte) error {
	if len(meta) > memberlist.MetaMaxSize {
		return fmt.Errorf("cluster: gossip metadata of %d bytes, at most %d", len(meta),
			memberlist.MetaMaxSize)
	}
	return nil
}

// Close says good-bye and stops.
func (g *Gossip) Close() error {
	g.stop()
	g.running.Wait()
	return errors.Join(g.list.Leave(time.Second), g.list.Shutdown())
}

// rejoin joins the seeds that are not members: at first, and after a partition that
// lasted until each side had forgotten the other.
func (g *Gossip) rejoin(ctx context.Context) {
	if g.opts.Seeds == nil {
		return
	}
	for {
		var missing []string
		for _, seed := range g.opts.Seeds() {
			if !g.isMember(seed) {
				missing = append(missing, seed)
			}
		}
		wait := rejoinEvery
		if len(missing) > 0 {
			if _, err := g.list.Join(missing); err != nil {
				wait = retryDelay
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

func (g *Gossip) isMember(address string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(g.members)), address)
}

// report calls Hint, outside memberlist's locks.
func (g *Gossip) report(ctx context.Context) {
	for {
		select {
		case <-g.wake:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		hints := g.hints
		g.hints = map[string]hint{}
		g.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(hints)) {
			if f := g.opts.Events.Hint; f != nil {
				f(name, hints[name].alive, hints[name].meta)
			}
		}
	}
}

// note keeps what memberlist tells, which holds its lock meanwhile.
func (g *Gossip) note(n *memberlist.Node, alive bool) {
	g.mu.Lock()
	if alive {
		g.members[n.Name] = n.Address()
	} else {
		delete(g.members, n.Name)
	}
	if n.Name != g.opts.Name {
		g.hints[n.Name] = hint{alive, slices.Clone(n.Meta)}
	}
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (g *Gossip) NotifyJoin(n *memberlist.Node) { g.note(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (g *Gossip) NotifyUpdate(n *memberlist.Node) { g.note(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (g *Gossip) NotifyLeave(n *memberlist.Node) { g.note(n, false) }

// NodeMeta implements memberlist.Delegate. More than the limit would panic there.
func (g *Gossip) NodeMeta(limit int) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.meta[:min(len(g.meta), limit)]
}

// NotifyMsg implements memberlist.Delegate; there are no messages.
func (g *Gossip) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate; there are none.
func (g *Gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate; there is none.
func (g *Gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate; there is none.
func (g *Gossip) MergeRemoteState([]byte, bool) {}

// lineWriter passes log lines on.
type lineWriter struct{ line func(string) }

var _ io.Writer = lineWriter{}

func (w lineWriter) Write(b []byte) (int, error) {
	call1(w.line, strings.TrimSpace(string(b)))
	return len(b), nil
}
