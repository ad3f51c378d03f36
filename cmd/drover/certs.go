package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/identity"
)

// certsFlags are those of all commands about certificates.
type certsFlags struct {
	authority, cluster, out string
	hosts                   []string
	days                    int
	force, newKey, only     bool
	ifMissing, asJSON       bool
}

// maxDays is more than any certificate should last.
const maxDays = 36500

func newCertsCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "certs",
		Short: "Make and renew certificates",
		Long: `Certs makes an authority for a cluster and signs certificates for the roles of its
processes. A folder for --tls holds ca.crt, tls.crt and tls.key; running processes notice
when these change.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: `  drover certs ca --out ./ca
  drover certs issue coordinator --ca ./ca --out ./coordinator --host coordinator.example
  drover certs renew ./coordinator --ca ./ca
  drover certs show ./coordinator`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCertsCA(g), newCertsIssue(g), newCertsRenew(g), newCertsTrust(g),
		newCertsShow(g), newCertsGossip(g))
	return c
}

func newCertsCA(g *globals) *cobra.Command {
	f := &certsFlags{}
	c := &cobra.Command{
		Use:   "ca --out DIR",
		Short: "Make a cluster's authority",
		Long: `Ca makes an authority that signs the certificates of one cluster: ca.crt and ca.key.
Keep ca.key off the machines of the cluster: whoever has it can be any process of it.

With --if-missing one that is there stays. Once two thirds of its life are over it gets a new
certificate for the key that it has, under which what it signed is valid, too.

Exit codes: 0 done, 1 an error, or a key that is there, 2 wrong usage.`,
		Example: "  drover certs ca --out ./ca --cluster production",
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return f.makeAuthority(g) },
	}
	f.flags(c, "out", "cluster", "days", "if-missing")
	c.Flags().BoolVar(&f.force, "force", false, "replace an authority's key")
	return c
}

func (f *certsFlags) makeAuthority(g *globals) error {
	lifetime, err := f.lifetime()
	switch {
	case err != nil:
		return err
	case f.out == "":
		return usagef("--out is required")
	case f.force && f.ifMissing:
		return usagef("give --force or --if-missing, not both")
	}
	if f.ifMissing {
		if _, _, err := identity.EnsureAuthority(f.out, f.cluster, time.Now(), lifetime); err != nil {
			return err
		}
		return printAuthority(g, f.out, false)
	}
	a, err := identity.NewAuthority(f.cluster, time.Now(), lifetime)
	if err != nil {
		return usageError{err}
	}
	if err := identity.SaveAuthority(f.out, a, f.force); err != nil {
		return fmt.Errorf("%w; --force replaces it, and what it signed is worth nothing then",
			err)
	}
	fmt.Fprintf(g.out, "an authority of cluster %s until %s in %s\n", f.cluster,
		date(a.Certificate.NotAfter), f.out)
	return nil
}

func newCertsIssue(g *globals) *cobra.Command {
	f := &certsFlags{}
	c := &cobra.Command{
		Use:   "issue ROLE --ca DIR --out DIR",
		Short: "Make a certificate for a role",
		Long: `Issue makes a key and a certificate for a role: coordinator, expertnode, etcd, client or
metrics. The authority is added to those that the folder trusts.

--host matters where others compare names: for a coordinator (its clients do) and for etcd.

With --if-missing a certificate that is there stays, if a process would start with it, this
authority signed it, it is for this role and these hosts, and a third of its life is left.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: `  drover certs issue expertnode --ca ./ca --out ./expertnode
  drover certs issue etcd --ca ./ca --out ./etcd --host etcd-0.example,10.0.0.1 --days 90`,
		Args: oneArg("ROLE"),
		RunE: func(_ *cobra.Command, args []string) error {
			role, err := identity.ParseRole(args[0])
			if err != nil {
				return usageError{err}
			}
			lifetime, err := f.lifetime()
			if err != nil {
				return err
			}
			if f.out == "" {
				return usagef("--out is required")
			}
			a, err := f.open()
			if err != nil {
				return err
			}
			r := identity.Request{ID: identity.ID{Cluster: f.cluster, Role: role}, Hosts: f.hosts,
				Now: time.Now(), Lifetime: lifetime}
			if f.ifMissing {
				_, err = a.Ensure(f.out, r)
			} else {
				err = a.Save(f.out, r)
			}
			if err != nil {
				return err
			}
			return printFolder(g, f.out, false)
		},
	}
	f.flags(c, "ca", "out", "cluster", "days", "if-missing")
	c.Flags().StringSliceVar(&f.hosts, "host", []string{"localhost", "127.0.0.1", "::1"},
		"DNS names and IP addresses, separated by commas")
	return c
}

func newCertsRenew(g *globals) *cobra.Command {
	f := &certsFlags{}
	c := &cobra.Command{
		Use:   "renew DIR… --ca DIR",
		Short: "Make certificates anew",
		Long: `Renew signs the certificates of some folders anew: for the same role, hosts and, unless
--days is given, as many days. Processes that run take them without losing a stream.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: "  drover certs renew ./coordinator ./expertnode --ca ./ca --new-key",
		Args:    someArgs("DIR"),
		RunE: func(_ *cobra.Command, dirs []string) error {
			lifetime, err := f.lifetime()
			if err != nil {
				return err
			}
			return f.each(g, dirs, func(a *identity.Authority, dir string) error {
				return a.Renew(dir, time.Now(), lifetime, f.newKey)
			})
		},
	}
	f.flags(c, "ca", "days")
	c.Flags().BoolVar(&f.newKey, "new-key", false, "make a new key, too")
	return c
}

func newCertsTrust(g *globals) *cobra.Command {
	f := &certsFlags{}
	c := &cobra.Command{
		Use:   "trust DIR… --ca DIR",
		Short: "Change the authorities that folders trust",
		Long: `Trust adds an authority to those that some folders trust, or with --only makes it the only
one. To change a cluster's authority while it runs: have every folder trust the new one, renew
every folder with it, have every folder trust it only.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: `  drover certs trust ./coordinator ./expertnode ./etcd --ca ./new-ca
  drover certs renew ./coordinator ./expertnode ./etcd --ca ./new-ca --new-key
  drover certs trust ./coordinator ./expertnode ./etcd --ca ./new-ca --only`,
		Args: someArgs("DIR"),
		RunE: func(_ *cobra.Command, dirs []string) error {
			return f.each(g, dirs, func(a *identity.Authority, dir string) error {
				return identity.Trust(dir, a, f.only)
			})
		},
	}
	f.flags(c, "ca")
	c.Flags().BoolVar(&f.only, "only", false, "trust no other authority")
	return c
}

func newCertsShow(g *globals) *cobra.Command {
	f := &certsFlags{}
	c := &cobra.Command{
		Use:   "show DIR…",
		Short: "Show what certificates say",
		Long: `Show prints who the certificates of some folders are for and how long they last, and
whether a process would start with them.

Exit codes: 0 done, 1 an error, or a folder with which no process would start, 2 wrong usage.`,
		Example: "  drover certs show ./coordinator --json",
		Args:    someArgs("DIR"),
		RunE: func(_ *cobra.Command, dirs []string) error {
			for _, dir := range dirs {
				if err := printFolder(g, dir, f.asJSON); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one line of JSON for each folder")
	return c
}

func newCertsGossip(g *globals) *cobra.Command {
	f := &certsFlags{}
	c := &cobra.Command{
		Use:   "gossip --out FILE",
		Short: "Make a key for gossip",
		Long: `Gossip makes the key that all processes of a cluster share for their gossip
(--gossip-key-file): 64 hexadecimal digits in a file that only its owner reads.

Exit codes: 0 done, 1 an error, or a file that is there, 2 wrong usage.`,
		Example: "  drover certs gossip --out ./gossip/key",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if f.out == "" {
				return usagef("--out is required")
			}
			made, err := identity.SaveSecret(f.out, identity.NewSecret(), f.ifMissing)
			if err != nil {
				return err
			}
			what := "a gossip key is there:"
			if made {
				what = "a new gossip key in"
			}
			_, err = fmt.Fprintln(g.out, what, f.out)
			return err
		},
	}
	c.Flags().StringVar(&f.out, "out", "", "file to write; its folder is made if missing (required)")
	f.flags(c, "if-missing")
	return c
}

// flags adds the flags of these names.
func (f *certsFlags) flags(c *cobra.Command, names ...string) {
	for _, name := range names {
		switch name {
		case "ca":
			c.Flags().StringVar(&f.authority, name, "", "folder of the authority (required)")
		case "out":
			c.Flags().StringVar(&f.out, name, "", "folder to write to; made if missing (required)")
		case "cluster":
			c.Flags().StringVar(&f.cluster, name, "default", "name of the cluster")
		case "days":
			c.Flags().IntVar(&f.days, name, 0, "how long it lasts (default: 3650 for an authority, "+
				"365 for a new certificate)")
		case "if-missing":
			c.Flags().BoolVar(&f.ifMissing, name, false, "keep what is there and good, so that the "+
				"command can run at each start")
		}
	}
}

func (f *certsFlags) lifetime() (time.Duration, error) {
	if f.days < 0 || f.days > maxDays {
		return 0, usagef("--days is %d, must be 1 to %d", f.days, maxDays)
	}
	return time.Duration(f.days) * 24 * time.Hour, nil
}

func (f *certsFlags) open() (*identity.Authority, error) {
	if f.authority == "" {
		return nil, usagef("--ca is required")
	}
	return identity.OpenAuthority(f.authority)
}

// each does something to each folder and shows what it holds then.
func (f *certsFlags) each(g *globals, dirs []string,
	do func(a *identity.Authority, dir string) error) error {
	a, err := f.open()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := do(a, dir); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if err := printFolder(g, dir, false); err != nil {
			return err
		}
	}
	return nil
}

// printFolder says what a folder holds, and returns an error if nothing would start with it.
func printFolder(g *globals, dir string, asJSON bool) error {
	if _, err := os.Stat(filepath.Join(dir, identity.AuthorityKeyFile)); !errors.Is(err,
		fs.ErrNotExist) {
		return printAuthority(g, dir, asJSON)
	}
	f, err := identity.Look(dir)
	if err != nil {
		return err
	}
	var authorities []string
	for _, a := range f.Authorities {
		authorities = append(authorities, a.SerialNumber.Text(16))
	}
	if asJSON {
		err = json.NewEncoder(g.out).Encode(map[string]any{"dir": dir, "cluster": f.Cluster,
			"role": f.Role, "hosts": f.Hosts(), "not_before": f.Certificate.NotBefore,
			"not_after": f.Certificate.NotAfter, "authorities": authorities,
			"usable": f.Problem == nil})
	} else {
		_, err = fmt.Fprintf(g.out, "%s: %s until %s, hosts %s, trusts %d authorities\n", dir, f.ID,
			date(f.Certificate.NotAfter), strings.Join(f.Hosts(), " "), len(authorities))
	}
	if f.Problem != nil {
		return f.Problem
	}
	return err
}

func printAuthority(g *globals, dir string, asJSON bool) error {
	a, err := identity.OpenAuthority(dir)
	if err != nil {
		return err
	}
	c := a.Certificate
	if asJSON {
		return json.NewEncoder(g.out).Encode(map[string]any{"dir": dir, "role": "authority",
			"not_before": c.NotBefore, "not_after": c.NotAfter,
			"authorities": []string{c.SerialNumber.Text(16)}, "usable": c.NotAfter.After(time.Now())})
	}
	_, err = fmt.Fprintf(g.out, "%s: %s until %s\n", dir, c.Subject.CommonName, date(c.NotAfter))
	return err
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// oneArg wants one argument of a name, someArgs at least one.
func oneArg(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("want one %s, got %d arguments", name, len(args))
		}
		return nil
	}
}

func someArgs(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("want at least one %s", name)
		}
		return nil
	}
}
