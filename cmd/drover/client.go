package main

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"drover/internal/role"
	"drover/kernel"
)

// target is where a client command finds its model: a coordinator's address, or a
// directory that is served in this process.
type target struct {
	endpoint, model, mode string
	insecure              bool
	threads               int
	cache                 string
}

// flags adds the target's flags to a command.
func (t *target) flags(c *cobra.Command) {
	endpointFlag(c, &t.endpoint)
	insecureFlag(c, &t.insecure)
	c.Flags().StringVar(&t.model, "model", "",
		"model directory to run in this process, without a cluster")
	c.Flags().StringVar(&t.mode, "mode", "bf16", "with --model: "+modeHelp)
	threadsFlag(c, &t.threads, "with --model: ")
	cacheFlag(c, &t.cache, "with --model: ")
}

// connect returns a connection to the target; stop ends it.
func (t *target) connect(ctx context.Context, g *globals) (
	conn *grpc.ClientConn, stop func(), err error) {
	if t.model == "" {
		if t.threads != 0 || t.cache != "" {
			return nil, nil, usagef("--threads and --cache go with --model; an endpoint has its own")
		}
		return dial(orDefaultEndpoint(t.endpoint), t.insecure)
	}
	if t.endpoint != "" {
		return nil, nil, usagef("give --endpoint or --model, not both")
	}
	mode, err := kernel.ParseMode(t.mode)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if err := setProcessors(&t.threads); err != nil {
		return nil, nil, err
	}
	w, clear := weights(g, t.cache)
	defer clear()
	return role.InProcess(ctx, t.model,
		role.InProcessOptions{Mode: mode, Threads: t.threads, Weights: w})
}

func insecureFlag(c *cobra.Command, insecure *bool) {
	c.Flags().BoolVar(insecure, "insecure", false,
		"allow plain text to and from addresses that are not loopback")
}

// dial connects to a gRPC address in plain text, which only loopback may have
// unless insecure was asked for. The connection is made when it is first used.
func dial(address string, plain bool) (conn *grpc.ClientConn, stop func(), err error) {
	if !plain {
		if err := mustBeLoopback(address); err != nil {
			return nil, nil, err
		}
	}
	conn, err = grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, nil, usagef("--endpoint %q: %v", address, err)
	}
	return conn, func() { _ = conn.Close() }, nil
}

// mustBeLoopback refuses an address that other machines can reach.
func mustBeLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usagef("address %q: must be HOST:PORT: %v", address, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("address %s is not loopback and Drover has no TLS yet: "+
		"--insecure allows plain text on a network that you trust", address)
}
