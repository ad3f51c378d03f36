package main

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/cluster/etcdserver"
)

type etcdFlags struct {
	options         etcdserver.Options
	insecure, debug bool
}

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
		Example: `  drover etcd --dir ./state
  drover etcd --dir /data --name a --client http://10.0.0.1:2379 --peer http://10.0.0.1:2380 \
    --initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380 --insecure`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), g) },
	}
	o := &f.options
	c.Flags().StringVar(&o.Dir, "dir", "", "folder of the member's state; made if missing (required)")
	c.Flags().StringVar(&o.Name, "name", "drover", "name of this member in --initial-cluster")
	c.Flags().StringVar(&o.ClientURL, "client", "http://127.0.0.1:2379", "URL to serve clients on")
	c.Flags().StringVar(&o.AdvertiseClientURL, "advertise-client", "",
		"URL where clients of other machines find this member (default: --client's)")
	c.Flags().StringVar(&o.PeerURL, "peer", "http://127.0.0.1:2380", "URL to serve the members on")
	c.Flags().StringVar(&o.AdvertisePeerURL, "advertise-peer", "",
		"URL where the members find this one (default: --peer's)")
	c.Flags().StringVar(&o.InitialCluster, "initial-cluster", "",
		"all members as NAME=PEER-URL, separated by commas (default: this one alone)")
	c.Flags().BoolVar(&o.Join, "join", false,
		"the cluster runs already, and this member was added to it")
	c.Flags().Int64Var(&o.QuotaBytes, "quota", 0, "bytes that the state may take (default: 2 GiB)")
	c.Flags().BoolVar(&f.debug, "debug", false, "log more")
	insecureFlag(c, &f.insecure)
	return c
}

func (f *etcdFlags) run(ctx context.Context, g *globals) error {
	if err := f.check(); err != nil {
		return err
	}
	log := logger(g, f.debug).With("member", f.options.Name)
	f.options.Warn = func(message string) { log.Debug("etcd", "message", message) }
	f.options.StartTimeout = etcdStart
	log.Info("waiting for a leader", "client", f.options.ClientURL)
	server, err := etcdserver.Start(ctx, f.options)
	if err != nil {
		return err
	}
	defer server.Close()
	log.Info("ready", "client", server.Endpoint())
	select {
	case <-ctx.Done():
		return nil
	case <-server.Done():
		return errors.New("etcd: the member stopped by itself; --debug shows its warnings")
	}
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
	for flag, address := range urls {
		if address == "" {
			continue
		}
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "http" || u.Host == "" || u.Path != "" {
			return usagef("%s is %q, want http://HOST:PORT", flag, address)
		}
		if f.insecure {
			continue
		}
		if err := mustBeLoopback(u.Host); err != nil {
			return err
		}
	}
	return nil
}
