package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"drover/internal/identity"
	"drover/internal/localcluster"
)

// reach is how a client command connects to coordinators.
type reach struct {
	plain        bool // plain text, to loopback
	ca, tls, key string
}

// flags adds the flags to a command.
func (r *reach) flags(c *cobra.Command) {
	c.Flags().BoolVar(&r.plain, "plaintext", false, "connect in plain text, to loopback only")
	c.Flags().StringVar(&r.ca, "ca", "", "connect by TLS, to a coordinator whose certificate an "+
		"authority in this file signed (default: that of this user's drover up at the address)")
	c.Flags().StringVar(&r.tls, "tls", "", "connect by TLS with the identity in this folder (ca.crt, "+
		"tls.crt, tls.key)")
	c.Flags().StringVar(&r.key, "api-key-file", "", "file of the API key (default: the key in "+
		"$DROVER_API_KEY)")
}

// options are those of connections to some addresses.
func (r *reach) options(addresses []string) ([]grpc.DialOption, error) {
	creds := insecure.NewCredentials()
	if cfg, err := r.config(addresses); err != nil {
		return nil, err
	} else if cfg != nil {
		creds = credentials.NewTLS(cfg)
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20))}
	key := os.Getenv("DROVER_API_KEY")
	if r.key != "" {
		text, err := os.ReadFile(r.key)
		if err != nil {
			return nil, fmt.Errorf("API key: %w", err)
		}
		key = string(text)
	}
	if key = strings.TrimSpace(key); key != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(key)))
	}
	return opts, nil
}

// config is how connections are encrypted; nil in plain text, which is for loopback alone.
func (r *reach) config(addresses []string) (*tls.Config, error) {
	ways := 0
	for _, given := range []bool{r.plain, r.ca != "", r.tls != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, usagef("give one of --ca, --tls and --plaintext")
	case r.ca != "":
		return identity.TrustFile(r.ca)
	case r.tls != "":
		return identity.HostClient(r.tls)
	}
	var files []string
	for _, a := range addresses {
		if err := mustBeLoopback(a, "--ca FILE or --tls DIR reaches it by TLS"); err != nil {
			return nil, err
		}
		file := localcluster.KnownAuthority(knownDir(), a)
		if _, err := os.Stat(file); err == nil {
			files = append(files, file)
		}
	}
	switch {
	case r.plain:
		return nil, nil
	case len(files) == 0:
		return nil, unknownError(strings.Join(addresses, ","))
	}
	return identity.TrustFile(files...)
}

// unknownError says that no cluster of this user has told that it serves at some addresses.
type unknownError string

func (e unknownError) Error() string {
	return "no connection to a coordinator: no drover up of this user serves " + string(e)
}

// knownDir is the folder in which drover up tells client commands of the same user which
// authority to trust. Without a home of the user it is empty.
func knownDir() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "drover", "clusters")
}

// bearer is an API key. Connections in plain text are to loopback.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return false }
