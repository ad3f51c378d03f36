package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/cluster/etcdserver"
	"drover/internal/identity"
)

// backupTime bounds a backup: the state is megabytes.
const backupTime = 5 * time.Minute

func newEtcdBackupCommand(g *globals) *cobra.Command {
	var endpoint, folder string
	var plaintext bool
	c := &cobra.Command{
		Use:   "backup --etcd URL FILE",
		Short: "Write all that etcd holds to a file",
		Long: `Backup asks one member for its state and writes it to a new file, which ends with its
SHA-256: etcd's own snapshot, which etcdutl reads as well. The cluster goes on meanwhile. Who
reads the file reads what etcd knows of passwords (hashes).

Exit codes: 0 done, 1 etcd does not answer or refuses, or the file exists, 2 wrong usage.`,
		Example: `  drover etcd backup --etcd https://10.0.0.1:2379 --tls /etc/drover/etcd etcd.backup
  drover etcd backup --etcd http://127.0.0.1:2379 --plaintext etcd.backup`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("one file is needed, got %d arguments", len(args))
			}
			scheme := "https://"
			if folder == "" {
				scheme = "http://"
			}
			address, ok := strings.CutPrefix(endpoint, scheme)
			switch {
			case folder == "" && !plaintext:
				return usagef(needTLS)
			case folder != "" && plaintext:
				return usagef("with --tls nothing is plain text: leave out --plaintext")
			case !ok || address == "":
				return usagef("--etcd is %q, want %sHOST:PORT of one member", endpoint, scheme)
			case folder == "":
				if err := mustBeLoopback(address, onlyLoopback); err != nil {
					return err
				}
			}
			if err := backUp(c.Context(), g, endpoint, folder, args[0]); err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(g.out, "%s: %d bytes\n", args[0], info.Size())
			return err
		},
	}
	c.Flags().StringVar(&endpoint, "etcd", "", "URL of one member (required)")
	c.Flags().StringVar(&folder, "tls", "", "folder of an identity of the role etcd")
	c.Flags().BoolVar(&plaintext, "plaintext", false, plaintextHelp)
	return c
}

func backUp(ctx context.Context, g *globals, endpoint, folder, file string) error {
	var client *tls.Config
	if folder != "" {
		id, err := openEtcdIdentity(folder, warnings(g))
		if err != nil {
			return err
		}
		defer id.Close()
		client = id.Client(identity.Etcd)
	}
	ctx, cancel := context.WithTimeout(ctx, backupTime)
	defer cancel()
	return etcdserver.Backup(ctx, endpoint, client, file)
}

func newEtcdRestoreCommand(g *globals) *cobra.Command {
	var o etcdserver.Options
	c := &cobra.Command{
		Use:   "restore --dir DIR FILE",
		Short: "Make a member's state from a backup",
		Long: `Restore makes the folder of a member from a file that drover etcd backup (or etcdctl
snapshot save) wrote. For an etcd of several members do it once for each, from the same file,
with the --name, --peer or --advertise-peer, and --initial-cluster that the member starts with.
Then start all members as before. Coordinators and expert nodes need not be restarted: what has
changed since the backup they write anew.

Exit codes: 0 done, 1 the file is damaged or the folder is not empty, 2 wrong usage.`,
		Example: `  drover etcd restore --dir /data --peer https://127.0.0.1:2380 etcd.backup
  drover etcd restore --dir /data --name a --advertise-peer https://10.0.0.1:2380 \
    --initial-cluster a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380 \
    etcd.backup`,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) != 1:
				return usagef("one file is needed, got %d arguments", len(args))
			case o.Dir == "":
				return usagef("--dir is required")
			}
			if o.AdvertisePeerURL == "" {
				o.AdvertisePeerURL = o.PeerURL
			}
			if err := etcdserver.Restore(o, args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(g.out, "%s: restored; start the member with it\n", o.Dir)
			return err
		},
	}
	c.Flags().StringVar(&o.Dir, "dir", "", "folder to make, or an empty one (required)")
	c.Flags().StringVar(&o.Name, "name", "drover", "name of this member in --initial-cluster")
	c.Flags().StringVar(&o.PeerURL, "peer", usualEtcdPeer, "URL to serve the members on")
	c.Flags().StringVar(&o.AdvertisePeerURL, "advertise-peer", "",
		"URL where the members find this one (default: --peer's)")
	c.Flags().StringVar(&o.InitialCluster, "initial-cluster", "",
		"all members as NAME=PEER-URL, separated by commas (default: this one alone)")
	return c
}
