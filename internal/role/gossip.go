package role

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"drover/cluster"
	"drover/internal/reload"
)

// Gossip is a process's part in memberlist. The zero value is none.
type Gossip struct {
	// Address is where others join.
	Address string

	running *cluster.Gossip
	hint    *atomic.Pointer[suspicion]
	files   *reload.Files // nil: the secret does not change
}

// GossipSecret is what all processes of a cluster share for their gossip.
type GossipSecret struct {
	// Text is the secret. It is not used if there is a File.
	Text string
	// File holds secrets, one a line, after which a cluster's secret can change while it
	// runs: the first encrypts, all are accepted. Lines that begin with # are comments.
	File string
}

// parseSecrets reads a file of secrets.
func parseSecrets(text []byte) (secrets [][]byte, err error) {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			secrets = append(secrets, line)
		}
	}
	if len(secrets) == 0 {
		return nil, errors.New("it has no key; openssl rand -hex 32 makes one")
	}
	return secrets, nil
}

// suspicion is called when one life of a node seems dead, or alive.
type suspicion func(nodeID string, epoch uint64, suspect bool)

// gossipName names one life of a node: a node that starts again is a new member, and
// what is said of its earlier life does not stick to it.
func gossipName(nodeID string, epoch uint64) string { return fmt.Sprintf("%s@%d", nodeID, epoch) }

// parseGossipName undoes gossipName; coordinators have other names.
func parseGossipName(name string) (nodeID string, epoch uint64, ok bool) {
	at := strings.LastIndexByte(name, '@')
	if at < 0 {
		return "", 0, false
	}
	epoch, err := strconv.ParseUint(name[at+1:], 10, 64)
	return name[:at], epoch, err == nil
}

// NewEpoch numbers a life of a node, above those before it.
func NewEpoch() uint64 { return uint64(time.Now().UnixNano()) }

// NodeGossip is ListenGossip for one life of an expert node.
func NodeGossip(nodeID string, epoch uint64, address string, secret GossipSecret,
	log *slog.Logger, others ...string) (Gossip, error) {
	return ListenGossip(gossipName(nodeID, epoch), address, secret, log, others...)
}

// ListenGossip takes part in gossip at once, under a name that is unique in the
// cluster and with a secret that all its processes share; others are addresses to join.
func ListenGossip(name, address string, secret GossipSecret, log *slog.Logger,
	others ...string) (Gossip, error) {
	g := Gossip{hint: &atomic.Pointer[suspicion]{}}
	opts := cluster.GossipOptions{Name: name, Address: address,
		Events: cluster.GossipEvents{
			Hint: func(name string, alive bool, _ []byte) {
				hint := g.hint.Load()
				if id, epoch, ok := parseGossipName(name); ok && hint != nil {
					(*hint)(id, epoch, !alive)
				}
			},
			Log: func(line string) { log.Debug("gossip", "line", line) },
		}}
	if len(others) > 0 {
		opts.Seeds = func() []string { return others }
	}
	start := func(secrets [][]byte) (err error) {
		opts.Secrets = secrets
		g.running, err = cluster.StartGossip(context.Background(), opts)
		return err
	}
	if err := g.open(secret, start, log); err != nil {
		return Gossip{}, err
	}
	g.Address = g.running.Address()
	return g, nil
}

// open starts the gossip with its secrets and, if they stand in a file, follows that.
func (g *Gossip) open(secret GossipSecret, start func([][]byte) error, log *slog.Logger) error {
	if secret.File == "" {
		return start([][]byte{[]byte(secret.Text)})
	}
	use := func(contents [][]byte) error {
		secrets, err := parseSecrets(contents[0])
		if err != nil {
			return err
		}
		if g.running == nil {
			return start(secrets)
		}
		return g.running.SetSecrets(secrets)
	}
	var err error
	g.files, err = reload.Open([]string{secret.File}, use, reload.Events{
		Reloaded: func() { log.Info("the gossip keys have changed", "file", secret.File) },
		Failed: func(err error) {
			log.Error("new gossip keys cannot be used; the old ones stay", "file", secret.File,
				"error", err)
		},
	})
	if err != nil {
		return fmt.Errorf("gossip keys of %s: %w", secret.File, err)
	}
	return nil
}

// report has hints about nodes passed on: a node that seems dead is suspect.
func (g Gossip) report(hint suspicion) {
	if g.running != nil {
		g.hint.Store(&hint)
	}
}

// Close leaves.
func (g Gossip) Close() {
	if g.files != nil {
		g.files.Close()
	}
	if g.running != nil {
		_ = g.running.Close() // the others notice its end anyway
	}
}
