package role

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"drover/cluster"
	"drover/cluster/etcdserver"
	"drover/internal/identity"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// guild has an authority and makes identities of a cluster.
type guild struct {
	authority *identity.Authority
	cluster   string
}

func newGuild(t *testing.T, name string) *guild {
	t.Helper()
	a, err := identity.NewAuthority(name, time.Now(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return &guild{a, name}
}

// as is an identity of a role, in a folder of its own.
func (g *guild) as(t *testing.T, role identity.Role) *identity.Source {
	t.Helper()
	dir := t.TempDir()
	err := g.authority.Save(dir, identity.Request{ID: identity.ID{Cluster: g.cluster, Role: role},
		Hosts: []string{"127.0.0.1"}, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.Open(dir, identity.Events{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// secureEtcd starts a member of etcd with an identity.
func (g *guild) secureEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	id := g.as(t, identity.Etcd)
	o := etcdserver.Options{Dir: filepath.Join(t.TempDir(), "state"),
		ClientURL: "https://127.0.0.1:0", PeerURL: "https://127.0.0.1:0"}
	o.ClientTLS, o.PeerTLS = EtcdTLS(id.Dir())
	s, err := etcdserver.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for range 2 { // it may be done again
		if err := SecureEtcd(t.Context(), s.Endpoint(), id); err != nil {
			t.Fatal(err)
		}
	}
	return s.Endpoint()
}

// store connects to etcd with an identity.
func store(t *testing.T, endpoint string, cfg *tls.Config) cluster.Store {
	t.Helper()
	s, err := cluster.OpenEtcd(cluster.EtcdConfig{Endpoints: []string{endpoint}, TLS: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestEtcdAccess checks what each role's certificate may read and write.
func TestEtcdAccess(t *testing.T) {
	g := newGuild(t, "x")
	endpoint := g.secureEtcd(t)
	const (
		refused = "permission denied"
		away    = "" // any error
	)
	coordinator := store(t, endpoint, g.as(t, identity.Coordinator).Client(identity.Etcd))
	node := store(t, endpoint, g.as(t, identity.ExpertNode).Client(identity.Etcd))
	for _, tc := range []struct {
		who   string
		store cluster.Store
		key   string
		write bool
		want  error
	}{
		{"coordinator", coordinator, "/drover/x/placement/m/plan", true, nil},
		{"coordinator", coordinator, "/drover/x/drain/a", true, nil},
		{"coordinator", coordinator, "/drover-load/x/m/experts/c", true, nil},
		{"coordinator", coordinator, "/drover/y/placement/m/plan", true, errors.New(refused)},
		{"coordinator", coordinator, "/other", false, errors.New(refused)},
		{"node", node, "/drover/x/placement/m/plan", false, nil},
		{"node", node, "/drover/x/identity", false, nil},
		{"node", node, "/drover/x/nodes/a", true, nil},
		{"node", node, "/drover/x/ready/a", true, nil},
		{"node", node, "/drover/x/placement/m/plan", true, errors.New(refused)},
		{"node", node, "/drover/x/placement/m/intent", true, errors.New(refused)},
		{"node", node, "/drover/x/placement/m/planner", true, errors.New(refused)},
		{"node", node, "/drover/x/history/m/1", true, errors.New(refused)},
		{"node", node, "/drover/x/drain/a", true, errors.New(refused)},
		{"node", node, "/drover/x/identity", true, errors.New(refused)},
		{"node", node, "/drover-load/x/m/nodes/a", true, errors.New(refused)},
		{"node", node, "/drover-load/x/m/nodes/a", false, errors.New(refused)},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var err error
		if tc.write {
			_, err = tc.store.Commit(ctx, cluster.Write{Put: []cluster.Put{{Key: tc.key,
				Value: []byte("{}")}}})
		} else {
			_, _, err = tc.store.List(ctx, tc.key)
		}
		cancel()
		if (err == nil) != (tc.want == nil) || tc.want != nil &&
			!strings.Contains(err.Error(), tc.want.Error()) {
			t.Errorf("%s, %s, write %v: %v, want %v", tc.who, tc.key, tc.write, err, tc.want)
		}
	}
	// A client's certificate, another cluster's, none, and plain text do not get in at all.
	stranger := newGuild(t, "x").as(t, identity.Coordinator)
	for who, cfg := range map[string]*tls.Config{
		"client": g.as(t, identity.Client).Client(identity.Etcd), "plain text": nil,
		"stranger": {Certificates: nil, InsecureSkipVerify: true,
			GetClientCertificate: stranger.Client(identity.Etcd).GetClientCertificate},
		"nobody": {InsecureSkipVerify: true},
	} {
		at := endpoint
		if cfg == nil {
			at = strings.Replace(endpoint, "https", "http", 1)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, _, err := store(t, at, cfg).List(ctx, "/drover/x/"); err == nil {
			t.Errorf("%s reads etcd", who)
		}
		cancel()
	}
}

// call is an attempt at a node's port.
func call(t *testing.T, address string, creds credentials.TransportCredentials) (execute, fetch,
	check error) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := droverv1.NewExpertServiceClient(conn)
	// A coordinator's stream stays open; Status is what only a coordinator may call, too.
	if _, execute = client.Status(ctx, &droverv1.StatusRequest{}); execute != nil {
		s, err := client.Execute(ctx)
		if err == nil {
			_, err = s.Recv()
		}
		execute = err
	}
	if s, err := client.Fetch(ctx, &droverv1.FetchRequest{}); err != nil {
		fetch = err
	} else {
		_, fetch = s.Recv()
	}
	_, check = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return execute, fetch, check
}

// TestSecureCluster runs a cluster whose hops are all encrypted, asks it, and lets every other
// role knock at a node.
func TestSecureCluster(t *testing.T) {
	g, quiet := newGuild(t, "x"), slog.New(slog.DiscardHandler)
	endpoint := g.secureEtcd(t)
	var node *ExpertNode
	for _, name := range []string{"a", "b"} {
		id := g.as(t, identity.ExpertNode)
		n, err := StartExpertNode(t.Context(), ExpertNodeOptions{ModelDir: demo, Mode: kernel.BF16,
			Store: store(t, endpoint, id.Client(identity.Etcd)), ClusterName: "x", ID: name,
			Epoch: NewEpoch(), Listen: "127.0.0.1:0", Domain: name, ShortLease: true, Identity: id,
			Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		node = n
	}
	id := g.as(t, identity.Coordinator)
	c, err := StartCoordinator(t.Context(), CoordinatorOptions{ModelDir: demo, Mode: kernel.BF16,
		Store: store(t, endpoint, id.Client(identity.Etcd)), ClusterName: "x", MinNodes: 2,
		GRPC: loopback(t), ShortLease: true, Identity: id, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	stranger := newGuild(t, "x")
	secure := func(g *guild, role identity.Role) credentials.TransportCredentials {
		cfg := g.as(t, role).Client(identity.ExpertNode)
		if g == stranger { // it would not trust the node, either
			cfg.VerifyConnection = nil
		}
		return credentials.NewTLS(cfg)
	}
	for name, tc := range map[string]struct {
		creds                 credentials.TransportCredentials
		execute, fetch, check codes.Code
	}{
		"coordinator": {secure(g, identity.Coordinator), codes.OK,
			codes.PermissionDenied, codes.OK},
		"node":       {secure(g, identity.ExpertNode), codes.PermissionDenied, codes.FailedPrecondition, codes.OK},
		"client":     {secure(g, identity.Client), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		"etcd":       {secure(g, identity.Etcd), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		"metrics":    {secure(g, identity.Metrics), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		"stranger":   {secure(stranger, identity.Coordinator), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		"nobody":     {credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		"plain text": {insecure.NewCredentials(), codes.Unavailable, codes.Unavailable, codes.Unavailable},
	} {
		execute, fetch, check := call(t, node.Address, tc.creds)
		if status.Code(execute) != tc.execute || status.Code(fetch) != tc.fetch ||
			status.Code(check) != tc.check {
			t.Errorf("%s: execute %v, fetch %v, check %v", name, execute, fetch, check)
		}
	}
}
