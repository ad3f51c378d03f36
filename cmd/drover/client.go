package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	pool "drover/client"
	"drover/internal/role"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// target is where a client command finds its model: coordinators' addresses, or a
// directory that is served in this process.
type target struct {
	endpoint, model, mode string
	reach                 reach
	threads               int
	cache                 string
}

// flags adds the target's flags to a command.
func (t *target) flags(c *cobra.Command) {
	endpointFlag(c, &t.endpoint)
	t.reach.flags(c)
	c.Flags().StringVar(&t.model, "model", "",
		"model directory to run in this process, without a cluster")
	c.Flags().StringVar(&t.mode, "mode", "bf16", "with --model: "+modeHelp)
	threadsFlag(c, &t.threads, "with --model: ")
	cacheFlag(c, &t.cache, "with --model: ")
}

// open returns the service of the target; stop ends it. Of several coordinators, one that is
// lost is replaced by another in the middle of an answer.
func (t *target) open(ctx context.Context, g *globals) (
	service droverv1.CoordinatorServiceClient, stop func(), err error) {
	if t.model != "" {
		conn, stop, err := t.connect(ctx, g)
		return droverv1.NewCoordinatorServiceClient(conn), stop, err
	}
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	addresses := endpoints(t.endpoint)
	options, err := t.reach.options(addresses)
	if err != nil {
		return nil, nil, err
	}
	p, err := pool.New(pool.Options{Addresses: addresses, DialOptions: options})
	if err != nil {
		return nil, nil, usagef("--endpoint %q: %v", strings.Join(addresses, ","), err)
	}
	if err := p.Probe(ctx); err != nil {
		p.Close()
		return nil, nil, err
	}
	return p.Service(), p.Close, nil
}

// check refuses flags that do not go together.
func (t *target) check() error {
	switch {
	case t.model == "" && (t.threads != 0 || t.cache != ""):
		return usagef("--threads and --cache go with --model; an endpoint has its own")
	case t.model != "" && t.endpoint != "":
		return usagef("give --endpoint or --model, not both")
	}
	return nil
}

// connect returns a connection to the target; stop ends it.
func (t *target) connect(ctx context.Context, g *globals) (
	conn *grpc.ClientConn, stop func(), err error) {
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	if t.model == "" {
		return dial(t.endpoint, t.reach)
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
		role.InProcessOptions{Mode: mode, Compute: role.Compute{Threads: t.threads}, Weights: w})
}

// endpoints are the addresses that a flag, or else the environment, names, separated by
// commas.
func endpoints(flag string) []string { return strings.Split(orDefaultEndpoint(flag), ",") }

// dial connects to the first that answers of some gRPC addresses. The connection is made
// when it is first used.
func dial(flag string, r reach) (conn *grpc.ClientConn, stop func(), err error) {
	addresses := endpoints(flag)
	options, err := r.options(addresses)
	if err != nil {
		return nil, nil, err
	}
	target := addresses[0]
	if len(addresses) > 1 {
		var all resolver.State
		for _, a := range addresses {
			all.Addresses = append(all.Addresses, resolver.Address{Addr: a, ServerName: hostOf(a)})
		}
		b := manual.NewBuilderWithScheme("pool")
		b.InitialState(all)
		target, options = "pool:///", append(options, grpc.WithResolvers(b))
	}
	conn, err = grpc.NewClient(target, options...)
	if err != nil {
		return nil, nil, usagef("--endpoint %q: %v", strings.Join(addresses, ","), err)
	}
	return conn, func() { _ = conn.Close() }, nil
}

// hostOf is the name in an address, which a certificate must have.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// mustBeLoopback refuses an address that other machines can reach; why says what would be
// wrong with one, or what to do.
func mustBeLoopback(address, why string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usagef("address %q: must be HOST:PORT: %v", address, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("address %s is not loopback: %s", address, why)
}
