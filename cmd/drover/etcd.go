package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"drover/cluster/etcdserver"
	"drover/internal/identity"
	"drover/internal/reload"
	"drover/internal/role"
)

type etcdFlags struct {
	options          etcdserver.Options
	tls              string
	plaintext, debug bool
	admin, tokenFile string
}

// The usual URLs; with --tls they are https.
const (
	usualEtcdClient = "http://127.0.0.1:2379"
	usualEtcdPeer   = "http://127.0.0.1:2380"
)

// etcdStart bounds how long a member waits for the others.
const etcdStart = 5 * time.Minute

func newEtcdCommand(g *globals) *cobra.Command {
	f := &etcdFlags{}
	c := &cobra.Command{
		Use:   "etcd --dir DIR",
		Short: "Run a member of etcd",
		Long: `Etcd runs one member of a real etcd in this process: the whole of it, or one of three or
five that --initial-cluster lists. It is ready when the members have a leader. With an odd
number of members, fewer than half of them may be away.

Exit codes: 0 ended by an interrupt, 1 an error, 2 wrong usage, 130 interrupted before it
was ready.`,
		Example: `  drover etcd --dir ./state --plaintext
  drover etcd --dir /data --name a --client https://10.0.0.1:2379 --peer https://10.0.0.1:2380 \
    --tls /etc/drover/etcd \
    --initial-cluster a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), g) },
	}
	o := &f.options
	c.Flags().StringVar(&o.Dir, "dir", "", "folder of the member's state; made if missing (required)")
	c.Flags().StringVar(&o.Name, "name", "drover", "name of this member in --initial-cluster")
	c.Flags().StringVar(&o.ClientURL, "client", usualEtcdClient, "URL to serve clients on")
	c.Flags().StringVar(&o.AdvertiseClientURL, "advertise-client", "",
		"URL where clients of other machines find this member (default: --client's)")
	c.Flags().StringVar(&o.PeerURL, "peer", usualEtcdPeer, "URL to serve the members on")
	c.Flags().StringVar(&o.AdvertisePeerURL, "advertise-peer", "",
		"URL where the members find this one (default: --peer's)")
	c.Flags().StringVar(&o.InitialCluster, "initial-cluster", "",
		"all members as NAME=PEER-URL, separated by commas (default: this one alone)")
	c.Flags().BoolVar(&o.Join, "join", false,
		"the cluster runs already, and this member was added to it")
	c.Flags().Int64Var(&o.QuotaBytes, "quota", 0, "bytes that the state may take (default: 2 GiB)")
	c.Flags().StringVar(&f.tls, "tls", "", "folder of this member's identity (ca.crt, tls.crt, "+
		"tls.key): clients and members need certificates, and URLs are https://")
	c.Flags().BoolVar(&f.debug, "debug", false, "log more")
	adminFlags(c, &f.admin, &f.tokenFile)
	c.Flags().BoolVar(&f.plaintext, "plaintext", false, plaintextHelp)
	c.AddCommand(newEtcdBackupCommand(g), newEtcdRestoreCommand(g))
	return c
}

func (f *etcdFlags) run(ctx context.Context, g *globals) error {
	f.secureDefaults()
	if err := f.check(); err != nil {
		return err
	}
	log := logger(g, f.debug).With("member", f.options.Name)
	f.options.Warn = func(message string) { log.Debug("etcd", "message", message) }
	f.options.StartTimeout = etcdStart
	changed := make(chan struct{}, 1)
	id, stop, err := f.openIdentity(log, changed)
	if err != nil {
		return err
	}
	defer stop()
	var leader atomic.Bool
	stopAdmin, err := f.serveAdmin(&leader, id, log)
	if err != nil {
		return err
	}
	defer stopAdmin()
	for {
		again, err := f.serve(ctx, log, id, changed, &leader)
		leader.Store(false)
		if !again {
			return err
		}
		log.Info("the authorities have changed: starting again with them")
	}
}

// serveAdmin serves health and metrics, which are etcd's own, through new starts of the member.
func (f *etcdFlags) serveAdmin(leader *atomic.Bool, id *identity.Source, log *slog.Logger) (
	stop func(), err error) {
	admin, err := role.ListenAdmin(f.admin, f.tokenFile, id)
	if err != nil {
		return nil, err
	}
	return admin.Serve(prometheus.DefaultGatherer, func() error {
		if !leader.Load() {
			return errors.New("the members have no leader yet")
		}
		return nil
	}, log)
}

// serve runs the member until ctx ends, or until its authorities change: etcd reads its own
// certificate for each connection, but its authorities only when it starts.
func (f *etcdFlags) serve(ctx context.Context, log *slog.Logger, id *identity.Source,
	changed <-chan struct{}, leader *atomic.Bool) (again bool, err error) {
	log.Info("waiting for a leader", "client", f.options.ClientURL)
	server, err := etcdserver.Start(ctx, f.options)
	if err != nil {
		return false, err
	}
	leader.Store(true)
	defer server.Close()
	if strings.HasSuffix(f.options.ClientURL, ":0") {
		f.options.ClientURL = server.Endpoint() // the same one after a new start
	}
	if id != nil {
		if err := role.SecureEtcd(ctx, server.Endpoint(), id); err != nil {
			return false, err
		}
	}
	log.Info("ready", "client", server.Endpoint())
	select {
	case <-ctx.Done():
		return false, nil
	case <-changed:
		return true, nil
	case <-server.Done():
		return false, errors.New("etcd: the member stopped by itself; --debug shows its warnings")
	}
}

// secureDefaults makes the usual URLs https ones where there is an identity.
func (f *etcdFlags) secureDefaults() {
	if f.tls == "" {
		return
	}
	for _, u := range []*string{&f.options.ClientURL, &f.options.PeerURL} {
		if *u == usualEtcdClient || *u == usualEtcdPeer {
			*u = strings.Replace(*u, "http://", "https://", 1)
		}
	}
}

// openEtcdIdentity reads an identity that must be of the role etcd, of whatever cluster.
func openEtcdIdentity(folder string, log *slog.Logger) (*identity.Source, error) {
	id, err := identity.Open(folder, role.IdentityEvents(log))
	if err != nil {
		return nil, err
	}
	if id.ID().Role != identity.Etcd {
		id.Close()
		return nil, fmt.Errorf("identity of %s: the certificate is for %s, want role %s", folder,
			id.ID(), identity.Etcd)
	}
	return id, nil
}

// openIdentity reads the member's identity, if one is given, has etcd use it, and tells when
// the authorities that it trusts have changed.
func (f *etcdFlags) openIdentity(log *slog.Logger, changed chan<- struct{}) (
	*identity.Source, func(), error) {
	if f.tls == "" {
		return nil, func() {}, nil
	}
	id, err := openEtcdIdentity(f.tls, log)
	if err != nil {
		return nil, nil, err
	}
	first := true
	authorities, err := reload.Open([]string{filepath.Join(f.tls, identity.AuthorityFile)},
		func([][]byte) error {
			if first {
				first = false
				return nil
			}
			if _, err := id.Reload(); err != nil {
				return err // the folder is not whole yet
			}
			select {
			case changed <- struct{}{}:
			default:
			}
			return nil
		}, reload.Events{})
	if err != nil {
		id.Close()
		return nil, nil, err
	}
	f.options.ClientTLS, f.options.PeerTLS = role.EtcdTLS(f.tls)
	return id, func() {
		authorities.Close()
		id.Close()
	}, nil
}

// check refuses what cannot be meant.
func (f *etcdFlags) check() error {
	o := &f.options
	if o.Dir == "" {
		return usagef("--dir is required")
	}
	if o.QuotaBytes < 0 {
		return usagef("--quota is %d, must not be negative", o.QuotaBytes)
	}
	if f.tls == "" && !f.plaintext {
		return usagef(needTLS)
	}
	if f.tls != "" && f.plaintext {
		return usagef("with --tls nothing is plain text: leave out --plaintext")
	}
	if f.admin != "none" && f.tls == "" {
		if err := mustBeLoopback(f.admin, onlyLoopback); err != nil {
			return err
		}
	}
	urls := map[string]string{"--client": o.ClientURL, "--peer": o.PeerURL,
		"--advertise-client": o.AdvertiseClientURL, "--advertise-peer": o.AdvertisePeerURL}
	names := map[string]bool{}
	for member := range strings.SplitSeq(o.InitialCluster, ",") {
		name, address, ok := strings.Cut(member, "=")
		switch {
		case o.InitialCluster == "":
			continue
		case !ok || name == "" || names[name]:
			return usagef("--initial-cluster has %q, want different NAME=URL", member)
		}
		names[name] = true
		urls["--initial-cluster "+name] = address
	}
	if len(names) > 0 && !names[o.Name] {
		return usagef("--initial-cluster does not list this member, %q (--name)", o.Name)
	}
	if o.Join && len(names) < 2 {
		return usagef("--join needs --initial-cluster with the members that run")
	}
	scheme := "http"
	if f.tls != "" {
		scheme = "https"
	}
	for flag, address := range urls {
		if address == "" {
			continue
		}
		u, err := url.Parse(address)
		if err != nil || u.Scheme != scheme || u.Host == "" || u.Path != "" {
			return usagef("%s is %q, want %s://HOST:PORT", flag, address, scheme)
		}
		if f.tls != "" {
			continue
		}
		if err := mustBeLoopback(u.Host, onlyLoopback); err != nil {
			return err
		}
	}
	return nil
}
