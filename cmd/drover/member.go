package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"drover/cluster"
	"drover/internal/role"
	"drover/kernel"
)

// member is what the roles of a cluster have in common.
type member struct {
	etcd, model, mode, cluster string
	gossip, join               string
	insecure, debug            bool
	threads                    int
	cache                      string
}

func (m *member) flags(c *cobra.Command) {
	c.Flags().StringVar(&m.etcd, "etcd", "", "etcd endpoints, separated by commas (required)")
	c.Flags().StringVar(&m.model, "model", "", "model directory (required)")
	modeFlag(c, &m.mode)
	threadsFlag(c, &m.threads, "")
	cacheFlag(c, &m.cache, "")
	c.Flags().StringVar(&m.cluster, "cluster", "default", "name of the cluster within etcd")
	c.Flags().StringVar(&m.gossip, "gossip", "",
		"address for gossip, encrypted with the key in $DROVER_GOSSIP_KEY (64 hex digits); "+
			"empty: no gossip")
	c.Flags().StringVar(&m.join, "join", "", "gossip addresses of others, separated by commas")
	c.Flags().BoolVar(&m.debug, "debug", false, "log more")
	insecureFlag(c, &m.insecure)
}

// check refuses what cannot be meant; addresses are those that are served, beside etcd's.
func (m *member) check(addresses ...string) (kernel.Mode, error) {
	if m.etcd == "" || m.model == "" {
		return 0, usagef("--etcd and --model are required")
	}
	for _, a := range strings.Split(m.etcd, ",") {
		addresses = append(addresses, strings.TrimPrefix(a, "http://"))
	}
	for _, a := range append(addresses, m.gossip) {
		if a == "" || a == "none" || m.insecure {
			continue
		}
		if err := mustBeLoopback(a); err != nil {
			return 0, err
		}
	}
	mode, err := kernel.ParseMode(m.mode)
	if err != nil {
		return 0, usageError{err}
	}
	return mode, nil
}

func (m *member) logger(g *globals) *slog.Logger { return logger(g, m.debug) }

// logger is a log of what happens, or with debug of more.
func logger(g *globals, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(g.err, &slog.HandlerOptions{Level: level}))
}

// warnings is a log of what needs attention.
func warnings(g *globals) *slog.Logger {
	return slog.New(slog.NewTextHandler(g.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// quiet is a log of what needs attention, for nodes whose output a parent shows.
func quiet(g *globals, id string) *slog.Logger {
	return warnings(g).With("node", id)
}

func (m *member) openStore() (cluster.Store, func(), error) {
	store, err := cluster.OpenEtcd(cluster.EtcdConfig{Endpoints: strings.Split(m.etcd, ",")})
	if err != nil {
		return nil, nil, err
	}
	return store, func() { _ = store.Close() }, nil
}

// openGossip takes part in gossip where an address was given.
func (m *member) openGossip(open func(secret string, others []string) (role.Gossip, error)) (
	role.Gossip, error) {
	if m.gossip == "" {
		return role.Gossip{}, nil
	}
	key := os.Getenv("DROVER_GOSSIP_KEY")
	if key == "" {
		return role.Gossip{}, errors.New("--gossip needs a key: set DROVER_GOSSIP_KEY to " +
			"64 hex digits, the same for the whole cluster (openssl rand -hex 32 makes one)")
	}
	var others []string
	if m.join != "" {
		others = strings.Split(m.join, ",")
	}
	return open(key, others)
}

// processName is a name that no other process of the cluster has.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}
