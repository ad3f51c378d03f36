package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"drover/internal/identity"
)

// reach is how a client command connects to coordinators.
type reach struct {
	plain        bool // plain text also to other addresses than loopback
	ca, tls, key string
}

// flags adds the flags to a command.
func (r *reach) flags(c *cobra.Command) {
	insecureFlag(c, &r.plain)
	c.Flags().StringVar(&r.ca, "ca", "", "connect by TLS, to a coordinator whose certificate an "+
		"authority in this file signed")
	c.Flags().StringVar(&r.tls, "tls", "", "connect by TLS with the identity in this folder (ca.crt, "+
		"tls.crt, tls.key)")
	c.Flags().StringVar(&r.key, "api-key-file", "", "file of the API key (default: the key in "+
		"$DROVER_API_KEY)")
}

// secure tells whether connections are encrypted.
func (r *reach) secure() bool { return r.ca != "" || r.tls != "" }

// options are those of a connection.
func (r *reach) options() ([]grpc.DialOption, error) {
	creds := insecure.NewCredentials()
	if r.secure() {
		if r.ca != "" && r.tls != "" {
			return nil, usagef("give --ca or --tls, not both")
		}
		cfg, err := r.config()
		if err != nil {
			return nil, err
		}
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

func (r *reach) config() (*tls.Config, error) {
	if r.ca != "" {
		return identity.TrustFile(r.ca)
	}
	return identity.HostClient(r.tls)
}

// bearer is an API key. Connections in plain text are to loopback, or were asked for.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return false }
