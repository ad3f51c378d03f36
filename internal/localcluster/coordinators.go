package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"drover/internal/identity"
	"drover/internal/role"
)

// Endpoint is where a coordinator serves.
type Endpoint struct {
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	// Admin serves health and metrics.
	Admin string `json:"admin"`
}

// reserveAll takes the ports of several coordinators: the first has the addresses that were
// asked for, or the usual ones; the others have free ports of the same hosts.
func (c *Cluster) reserveAll(o Options) error {
	for i := range o.Coordinators {
		var e Endpoint
		for _, port := range []struct {
			what, asked, usual string
			to                 *string
		}{{"gRPC", o.GRPC, usualGRPC, &e.GRPC}, {"HTTP", o.HTTP, usualHTTP, &e.HTTP},
			{"health and metrics", "", usualAdmin, &e.Admin}} {
			address, err := c.reserveOne(port.asked, port.usual, i == 0)
			if err != nil {
				return fmt.Errorf("serve %s: %w", port.what, err)
			}
			*port.to = address
		}
		c.Coordinators = append(c.Coordinators, e)
	}
	return nil
}

func (c *Cluster) reserveOne(asked, usual string, first bool) (string, error) {
	wanted := asked
	if asked == "" {
		wanted = usual
	}
	host, _, err := net.SplitHostPort(wanted)
	if err != nil {
		return "", err
	}
	free := net.JoinHostPort(host, "0")
	if !first {
		wanted = free
	}
	address, release, err := reserve(wanted)
	if err != nil && asked == "" && first {
		address, release, err = reserve(free)
	}
	if err != nil {
		return "", err
	}
	c.push(release)
	return address, nil
}

// startCoordinators runs several coordinators as processes of their own, beside the nodes,
// so that each can be killed, and waits until all are ready. This process takes part in
// gossip, so that the others have somebody to join.
func (c *Cluster) startCoordinators(ctx context.Context, o Options, key string, n *nursery) error {
	gossip, err := role.ListenGossip("up", "127.0.0.1:0", role.GossipSecret{Text: key}, o.Log)
	if err != nil {
		return err
	}
	c.push(gossip.Close)
	all := c.children(o, gossip.Address, key)
	for i, e := range c.Coordinators {
		all = append(all, child{name: "coordinator-" + strconv.Itoa(i+1),
			env: []string{"DROVER_GOSSIP_KEY=" + key}, args: []string{
				"coordinator", "--etcd", c.Etcd, "--model", o.ModelDir, "--mode", o.Mode.String(),
				"--threads", strconv.Itoa(max(o.Threads, 1)), "--cache", cacheArgument(o),
				"--device", o.Device,
				"--grpc", e.GRPC, "--http", e.HTTP, "--admin", e.Admin,
				"--min-nodes", strconv.Itoa(max(o.Nodes, 1)),
				"--replicas", strconv.Itoa(max(o.Replicas, 1)), "--allow-score",
				"--gossip", "127.0.0.1:0", "--join", gossip.Address, "--short-lease", "--with-parent"}})
		last := &all[len(all)-1]
		last.args = append(last.args, repairArguments(o)...)
		last.args = append(last.args, c.identities.arguments(identity.Coordinator)...)
		if !o.Plaintext {
			last.args = append(last.args, "--any-client")
		}
	}
	n.run(all)
	creds, err := c.clientCredentials()
	if err != nil {
		return err
	}
	first := c.Coordinators[0]
	c.GRPC, c.HTTP, c.Admin = first.GRPC, first.HTTP, first.Admin
	for i := range c.Coordinators { // the first last: its connection stays
		e := c.Coordinators[len(c.Coordinators)-1-i]
		if c.Conn, err = grpc.NewClient(e.GRPC, grpc.WithTransportCredentials(creds)); err != nil {
			return err
		}
		c.push(func() { _ = c.Conn.Close() })
		if err := waitServing(ctx, c.Conn); err != nil {
			return fmt.Errorf("wait for the coordinator on %s: %w", e.GRPC, err)
		}
	}
	return nil
}

// clientCredentials are those of a client.
func (c *Cluster) clientCredentials() (credentials.TransportCredentials, error) {
	if c.Authority == "" {
		return insecure.NewCredentials(), nil
	}
	cfg, err := identity.TrustFile(c.Authority)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(cfg), nil
}

// repairArguments are a child's flags for experts that no node computes, or one wrongly.
func repairArguments(o Options) []string {
	args := []string{"--last-resort-bytes", strconv.FormatInt(o.LastResort.Bytes, 10)}
	if o.LastResort.Wait > 0 {
		args = append(args, "--expert-wait", o.LastResort.Wait.String())
	}
	if o.CheckFraction != 0 { // negative is none, as 0 is on the command line
		args = append(args, "--check-fraction",
			strconv.FormatFloat(max(o.CheckFraction, 0), 'g', -1, 64))
	}
	return args
}

// cacheArgument is the --cache of a child.
func cacheArgument(o Options) string {
	if o.Cache == "" {
		return "off"
	}
	return o.Cache
}

// waitServing waits until a coordinator says that it is ready.
func waitServing(ctx context.Context, conn *grpc.ClientConn) error {
	last := errors.New("it says that it is not ready")
	for {
		r, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{},
			grpc.WaitForReady(true))
		if r.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %v)", context.Cause(ctx), last)
		}
	}
}
