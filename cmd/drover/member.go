package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"drover/cluster"
	"drover/internal/identity"
	"drover/internal/role"
	"drover/kernel"
)

// member is what the roles of a cluster have in common.
type member struct {
	etcd, model, mode, cluster string
	gossip, join, gossipKeys   string
	tls, etcdTLS               string
	etcdUser, etcdPassword     string // the password's file
	plaintext, debug           bool
	compute                    role.Compute
	cache                      string
	admin, tokenFile           string
}

func (m *member) flags(c *cobra.Command) {
	c.Flags().StringVar(&m.etcd, "etcd", "", "etcd endpoints, separated by commas (required)")
	c.Flags().StringVar(&m.model, "model", "", "model directory (required)")
	modeFlag(c, &m.mode)
	computeFlags(c, &m.compute, "")
	cacheFlag(c, &m.cache, "")
	c.Flags().StringVar(&m.cluster, "cluster", "default", "name of the cluster within etcd")
	c.Flags().StringVar(&m.gossip, "gossip", "",
		"address for gossip, encrypted with the key in $DROVER_GOSSIP_KEY (64 hex digits) or of "+
			"--gossip-key-file; empty: no gossip")
	c.Flags().StringVar(&m.gossipKeys, "gossip-key-file", "", "file of gossip keys, one a line, "+
		"read again when it changes: the first encrypts, all are accepted")
	c.Flags().StringVar(&m.join, "join", "", "gossip addresses of others, separated by commas")
	c.Flags().StringVar(&m.tls, "tls", "", "folder of this process's identity (ca.crt, tls.crt, "+
		"tls.key; drover certs makes one): expert nodes and etcd are reached by TLS")
	c.Flags().StringVar(&m.etcdTLS, "etcd-tls", "", "folder of another identity, for an etcd whose "+
		"certificate names hosts instead of a role")
	c.Flags().StringVar(&m.etcdUser, "etcd-user", "", "user, for an etcd that wants passwords")
	c.Flags().StringVar(&m.etcdPassword, "etcd-password-file", "", "file with that user's password")
	adminFlags(c, &m.admin, &m.tokenFile)
	c.Flags().BoolVar(&m.debug, "debug", false, "log more")
	c.Flags().BoolVar(&m.plaintext, "plaintext", false, plaintextHelp)
}

// plaintextHelp is that of the flag of all roles.
const plaintextHelp = "plain text where there is no TLS; only on loopback addresses"

// Why a role does not begin, or not with an address.
const (
	needTLS = "--tls DIR is needed, the folder of this process's identity (drover certs makes " +
		"one), or --plaintext: plain text, only on loopback"
	onlyLoopback = "plain text is for loopback alone; --tls DIR encrypts (drover certs makes the " +
		"folder)"
)

// check refuses what cannot be meant. Unless there is an identity, rows must be addresses of
// loopback; clients are served in plain text, and always must. What is plain text must have been
// asked for.
func (m *member) check(rows, clients []string) (kernel.Mode, error) {
	switch {
	case m.etcd == "" || m.model == "":
		return 0, usagef("--etcd and --model are required")
	case m.tls == "" && !m.plaintext:
		return 0, usagef(needTLS)
	case len(clients) > 0 && !m.plaintext:
		return 0, usagef("--client-tls none serves clients in plain text: give --plaintext, too")
	case len(clients) == 0 && m.tls != "" && m.plaintext:
		return 0, usagef("with --tls nothing is plain text: leave out --plaintext")
	}
	plain := clients
	if m.tls == "" {
		plain = append(append(plain, rows...), m.gossip, m.admin)
	}
	for _, a := range strings.Split(m.etcd, ",") {
		address, isPlain := strings.CutPrefix(a, "http://")
		switch {
		case m.tls == "" && m.etcdTLS == "" && strings.HasPrefix(a, "https://"):
			return 0, usagef("--etcd %s is TLS: --tls DIR is needed, in the place of --plaintext, or "+
				"--etcd-tls DIR", a)
		case m.tls == "" && m.etcdTLS == "":
			plain = append(plain, address)
		case isPlain:
			return 0, usagef("--etcd %s is plain text, but --tls or --etcd-tls is given; "+
				"want https://HOST:PORT", a)
		}
	}
	for _, a := range plain {
		if a == "" || a == "none" {
			continue
		}
		if err := mustBeLoopback(a, onlyLoopback); err != nil {
			return 0, err
		}
	}
	if _, err := role.ParseDevice(m.compute.Device); err != nil {
		return 0, usagef("--device: %w", err)
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

// openIdentity reads the identity of a process that needs a role; nil if none is given.
func (m *member) openIdentity(as identity.Role, log *slog.Logger) (*identity.Source, func(),
	error) {
	if m.tls == "" {
		return nil, func() {}, nil
	}
	id, err := identity.OpenAs(m.tls, identity.ID{Cluster: m.cluster, Role: as},
		role.IdentityEvents(log))
	if err != nil {
		return nil, nil, err
	}
	return id, id.Close, nil
}

// openStore connects to etcd: by this process's identity, or by another one that was given.
func (m *member) openStore(id *identity.Source) (cluster.Store, func(), error) {
	cfg := cluster.EtcdConfig{Endpoints: strings.Split(m.etcd, ",")}
	if m.etcdTLS != "" {
		var err error
		if cfg.TLS, err = identity.HostClient(m.etcdTLS); err != nil {
			return nil, nil, err
		}
	} else if id != nil {
		cfg.TLS = id.Client(identity.Etcd)
	}
	if err := m.readPassword(&cfg); err != nil {
		return nil, nil, err
	}
	store, err := cluster.OpenEtcd(cfg)
	if err != nil {
		return nil, nil, err
	}
	return store, func() { _ = store.Close() }, nil
}

// maxPassword bounds a password for etcd.
const maxPassword = 4 << 10

// readPassword sets the user and the password for etcd, if they are given.
func (m *member) readPassword(cfg *cluster.EtcdConfig) error {
	if (m.etcdUser == "") != (m.etcdPassword == "") {
		return usagef("give both --etcd-user and --etcd-password-file, or neither")
	}
	if m.etcdUser == "" {
		return nil
	}
	f, err := os.Open(m.etcdPassword)
	if err != nil {
		return fmt.Errorf("password for etcd: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return fmt.Errorf("password for etcd: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || len(password) > maxPassword {
		return fmt.Errorf("password for etcd: %s has %d bytes, want 1 to %d", m.etcdPassword,
			len(password), maxPassword)
	}
	cfg.Username, cfg.Password = m.etcdUser, password
	return nil
}

// openGossip takes part in gossip where an address was given.
func (m *member) openGossip(open func(secret role.GossipSecret, others []string) (role.Gossip,
	error)) (role.Gossip, error) {
	if m.gossip == "" {
		return role.Gossip{}, nil
	}
	secret := role.GossipSecret{Text: os.Getenv("DROVER_GOSSIP_KEY"), File: m.gossipKeys}
	if secret == (role.GossipSecret{}) {
		return role.Gossip{}, errors.New("--gossip needs a key: set DROVER_GOSSIP_KEY to " +
			"64 hex digits, the same for the whole cluster (openssl rand -hex 32 makes one), " +
			"or name a file of keys by --gossip-key-file")
	}
	var others []string
	if m.join != "" {
		others = strings.Split(m.join, ",")
	}
	return open(secret, others)
}

// adminFlags adds the flags of the port for those who run a process.
func adminFlags(c *cobra.Command, address, tokenFile *string) {
	c.Flags().StringVar(address, "admin", "none",
		"address of /healthz, /readyz and /metrics (Prometheus), over HTTPS with --tls; "+
			"none serves none")
	c.Flags().StringVar(tokenFile, "metrics-token-file", "", "file with a token that lets other "+
		"machines read /metrics (Authorization: Bearer)")
}

// processName is a name that no other process of the cluster has.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}
