package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/access"
	"drover/internal/identity"
	"drover/internal/reload"
	"drover/internal/role"
)

func newKeysCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Make API keys",
		Long: `Keys makes API keys for the clients of a coordinator (--api-keys). A file of them holds
hashes, not keys; a coordinator notices within a second when it changes. To take a key back,
remove its line.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: "  drover keys new alice --file ./api-keys",
		Args:    noCommand,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newKeysNew(g))
	return c
}

func newKeysNew(g *globals) *cobra.Command {
	var file, scopes string
	var days int
	c := &cobra.Command{
		Use:   "new NAME --file FILE",
		Short: "Make an API key",
		Long: `New prints a new key, once, and appends its hash to a file. Several keys may have one
name, so that one can replace the other.

Exit codes: 0 done, 1 an error, 2 wrong usage.`,
		Example: `  drover keys new alice --file ./api-keys
  drover keys new operator --file ./api-keys --scopes infer,admin --days 30`,
		Args: oneArg("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is required")
			}
			if days < 0 || days > maxDays {
				return usagef("--days is %d, must be 0 to %d", days, maxDays)
			}
			now := time.Now()
			var expires time.Time
			if days > 0 {
				expires = now.AddDate(0, 0, days)
			}
			var all []access.Scope
			for s := range strings.SplitSeq(scopes, ",") {
				all = append(all, access.Scope(s))
			}
			text, key, err := access.New(args[0], all, now, expires)
			if err != nil {
				return usageError{err}
			}
			if err := appendKey(file, key); err != nil {
				return err
			}
			_, err = fmt.Fprintln(g.out, text)
			return err
		},
	}
	c.Flags().StringVar(&file, "file", "", "file of keys; made if missing (required)")
	c.Flags().StringVar(&scopes, "scopes", "infer",
		"what the key is good for: infer (ask the model), admin (see and steer the cluster)")
	c.Flags().IntVar(&days, "days", 0, "how long it lasts (default: for ever)")
	return c
}

// appendKey adds a line to a file that must be valid with it.
func appendKey(file string, key access.Key) error {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	line := key.Line() + "\n"
	if len(text) > 0 && text[len(text)-1] != '\n' {
		line = "\n" + line
	}
	if _, err := access.Parse(append(text, line...)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// clientPort is how a coordinator serves its clients.
type clientPort struct {
	tls, keys string
	// anybody is served, without a key and a certificate: of drover up, on loopback.
	anybody bool
}

func (p *clientPort) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.tls, "client-tls", "", "folder of the identity that clients see, or none "+
		"for plain text (default: --tls); clients need an API key or a certificate then")
	c.Flags().StringVar(&p.keys, "api-keys", "",
		"file of API keys that clients need (drover keys makes them)")
	c.Flags().BoolVar(&p.anybody, "any-client", false, "serve clients that show nothing")
	_ = c.Flags().MarkHidden("any-client") // the flag exists
}

// dir is the folder of the identity, or empty.
func (p *clientPort) dir(usual string) string {
	switch p.tls {
	case "":
		return usual
	case "none":
		return ""
	}
	return p.tls
}

// open completes a coordinator's options; stop ends what follows files.
func (p *clientPort) open(o *role.CoordinatorOptions, usual string) (stop func(), err error) {
	dir := p.dir(usual)
	stop = func() {}
	if dir == "" && p.keys == "" {
		return stop, nil
	}
	if dir != "" {
		if o.Clients, err = identity.Open(dir, role.IdentityEvents(o.Log)); err != nil {
			return nil, err
		}
		stop = o.Clients.Close
	}
	if p.anybody {
		return stop, nil
	}
	if o.Guard, err = access.Open(p.keys, guardEvents(o.Log)); err != nil {
		stop()
		return nil, err
	}
	closeIdentity := stop
	return func() {
		o.Guard.Close()
		closeIdentity()
	}, nil
}

// guardEvents are what a log should say of who asks.
func guardEvents(log *slog.Logger) access.Events {
	return access.Events{
		Events: reload.Events{
			Reloaded: func() { log.Info("new API keys are in force") },
			Failed: func(err error) {
				log.Error("new API keys cannot be used; the old ones stay", "error", err)
			},
		},
		Called: func(who, method string, refused error) {
			if refused != nil {
				log.Debug("a call was refused", "by", who, "method", method, "reason", refused)
			} else {
				log.Debug("a call", "by", who, "method", method)
			}
		},
	}
}
