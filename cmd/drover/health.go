package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"drover/internal/identity"
)

// usualAdmin is where processes in containers serve their admin port.
const usualAdmin = "127.0.0.1:9090"

// maxReason bounds what is read, and shown, of a process's answer.
const maxReason = 1 << 10

// healthFlags are how health asks a process.
type healthFlags struct {
	address, tls, ca, role string
	grpc, live, plain      bool
	timeout                time.Duration
}

func newHealthCommand(g *globals) *cobra.Command {
	f := &healthFlags{}
	c := &cobra.Command{
		Use:   "health [ADDR]",
		Short: "Ask a process whether it is ready",
		Long: `Health asks a process by its admin port (--admin of coordinator, expertnode and etcd)
whether it is ready, or with --live whether it answers at all, and prints one line. It is for
health checks in containers that hold nothing but drover. ADDR is ` + usualAdmin + ` unless given.

With --tls, a folder of an identity, the port is asked by HTTPS, and must belong to a process of
the same role, or of that of --role: in a container, give what the process was given. With --grpc
a coordinator is asked by its client port instead (` + defaultEndpoint + `).

Exit codes: 0 ready, 1 not ready, or no answer, 2 wrong usage.`,
		Example: `  drover health --tls /tls
  drover health --live --plaintext 127.0.0.1:9090
  drover health --grpc --ca ./ca.crt coordinator.example:7070`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("want one ADDR, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			f.address = usualAdmin
			if f.grpc {
				f.address = defaultEndpoint
			}
			if len(args) == 1 {
				f.address = args[0]
			}
			return f.run(c.Context(), g)
		},
	}
	c.Flags().StringVar(&f.tls, "tls", "", "ask by TLS, with the identity in this folder (ca.crt, "+
		"tls.crt, tls.key)")
	c.Flags().StringVar(&f.role, "role", "", "with --tls: role of who is asked (default: that of "+
		"the identity)")
	c.Flags().StringVar(&f.ca, "ca", "", "ask by TLS, a process whose certificate names ADDR and "+
		"was signed by an authority in this file")
	c.Flags().BoolVar(&f.live, "live", false, "ask only whether the process answers (/healthz)")
	c.Flags().BoolVar(&f.grpc, "grpc", false, "ask a coordinator's client port by gRPC")
	c.Flags().DurationVar(&f.timeout, "timeout", 5*time.Second, "longest time to wait")
	c.Flags().BoolVar(&f.plain, "plaintext", false, "ask in plain text, on loopback only")
	return c
}

func (f *healthFlags) run(ctx context.Context, g *globals) error {
	switch {
	case f.timeout <= 0:
		return usagef("--timeout is %v, must be more than 0", f.timeout)
	case f.live && f.grpc:
		return usagef("give --live or --grpc, not both")
	case f.plain && (f.tls != "" || f.ca != "") || f.tls != "" && f.ca != "":
		return usagef("give one of --tls, --ca and --plaintext")
	case !f.plain && f.tls == "" && f.ca == "":
		return usagef("--tls DIR is needed, the identity of the process, or --ca FILE, or --plaintext")
	case f.role != "" && f.tls == "":
		return usagef("--role goes with --tls")
	}
	if _, _, err := net.SplitHostPort(f.address); err != nil {
		return usagef("address %q: must be HOST:PORT: %v", f.address, err)
	}
	secure, stop, err := f.secure()
	if err != nil {
		return err
	}
	defer stop()
	if secure == nil {
		if err := mustBeLoopback(f.address, onlyLoopback); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout,
		fmt.Errorf("%s did not answer within %v", f.address, f.timeout))
	defer cancel()
	ask := f.askHTTP
	if f.grpc {
		ask = askGRPC
	}
	state, err := ask(ctx, f.address, secure)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	_, err = fmt.Fprintln(g.out, state)
	return err
}

// secure is how to connect; nil is plain text. stop ends what follows files.
func (f *healthFlags) secure() (cfg *tls.Config, stop func(), err error) {
	stop = func() {}
	if f.ca != "" {
		cfg, err = identity.TrustFile(f.ca)
		return cfg, stop, err
	}
	if f.tls == "" {
		return nil, stop, nil
	}
	of := identity.Role(f.role)
	if of != "" {
		if of, err = identity.ParseRole(f.role); err != nil {
			return nil, nil, usageError{err}
		}
	}
	id, err := identity.Open(f.tls, identity.Events{})
	if err != nil {
		return nil, nil, err
	}
	if of == "" {
		of = id.ID().Role
	}
	return id.Client(of), id.Close, nil
}

// askHTTP asks an admin port.
func (f *healthFlags) askHTTP(ctx context.Context, address string, secure *tls.Config) (string,
	error) {
	url := "http://" + address
	if secure != nil {
		url = "https://" + address
	}
	if f.live {
		url += "/healthz"
	} else {
		url += "/readyz"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", usageError{err}
	}
	transport := &http.Transport{TLSClientConfig: secure, DisableKeepAlives: true, Proxy: nil}
	reply, err := transport.RoundTrip(r) // what redirects is no admin port
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReason))
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	switch reply.StatusCode {
	case http.StatusOK:
		return line, nil
	case http.StatusServiceUnavailable:
		return "", errors.New(line)
	}
	return "", fmt.Errorf("ask %s: status %s: %q", url, reply.Status, line)
}

// askGRPC asks a coordinator's client port.
func askGRPC(ctx context.Context, address string, secure *tls.Config) (string, error) {
	creds := insecure.NewCredentials()
	if secure != nil {
		creds = credentials.NewTLS(secure)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy())
	if err != nil {
		return "", usageError{err}
	}
	defer conn.Close()
	reply, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return "", fmt.Errorf("ask %s: %s", address, status.Convert(err).Message())
	}
	if reply.Status != healthv1.HealthCheckResponse_SERVING {
		return "", fmt.Errorf("not ready: %s", reply.Status)
	}
	return "ready", nil
}
