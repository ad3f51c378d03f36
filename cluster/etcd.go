package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// EtcdConfig says how to reach etcd.
type EtcdConfig struct {
	// Endpoints are URLs or host:port of the members; at least one.
	Endpoints []string
	// TLS is the client's configuration; nil means plain text.
	TLS *tls.Config
	// Username and Password authenticate the client where etcd asks for it. With them
	// OpenEtcd waits for a member, up to 20 s.
	Username, Password string
}

// Etcd is a Store in etcd. It connects when it is used, and again whenever it must.
type Etcd struct {
	client    *clientv3.Client
	endpoints []string
	tls       *tls.Config // nil in plain text
}

// reconnect keeps an outage of etcd from lasting longer than it does: gRPC would wait
// up to two minutes between attempts.
var reconnect = grpc.ConnectParams{
	Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
		MaxDelay: time.Second},
	MinConnectTimeout: 2 * time.Second,
}

// etcdDialTimeout bounds the wait for a member that takes a password.
const etcdDialTimeout = 20 * time.Second

// etcdMaxBytes bounds one answer: every plan of the history at its largest.
const etcdMaxBytes = 32 << 20

// OpenEtcd returns a Store in etcd; without a password it does not wait for a connection.
func OpenEtcd(cfg EtcdConfig) (*Etcd, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("cluster: no etcd endpoint; name one as host:port")
	}
	client, err := clientv3.New(clientv3.Config{
		DialTimeout: etcdDialTimeout, // which only authentication waits for
		Endpoints:   cfg.Endpoints, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		MaxCallRecvMsgSize: etcdMaxBytes, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(reconnect)},
	})
	if err != nil {
		return nil, fmt.Errorf("cluster: open etcd %v: %w", cfg.Endpoints, err)
	}
	return &Etcd{client, cfg.Endpoints, cfg.TLS}, nil
}

// Close ends the connection and all watches.
func (s *Etcd) Close() error { return s.client.Close() }

// List implements Store.
func (s *Etcd) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	r, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("cluster: list %s in etcd: %w", prefix, s.away(err))
	}
	entries := make([]Entry, len(r.Kvs))
	for i, kv := range r.Kvs {
		entries[i] = Entry{Key: string(kv.Key), Value: kv.Value, ModRevision: kv.ModRevision}
	}
	return entries, r.Header.Revision, nil
}

// Commit implements Store.
func (s *Etcd) Commit(ctx context.Context, w Write) (int64, error) {
	if err := w.validate(); err != nil {
		return 0, err
	}
	var conds []clientv3.Cmp
	for _, c := range w.If {
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.ModRevision))
	}
	var ops []clientv3.Op
	for _, p := range w.Put {
		ops = append(ops, clientv3.OpPut(p.Key, string(p.Value),
			clientv3.WithLease(clientv3.LeaseID(p.Lease))))
	}
	for _, k := range w.Delete {
		ops = append(ops, clientv3.OpDelete(k))
	}
	r, err := s.client.Txn(ctx).If(conds...).Then(ops...).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return 0, ErrLeaseGone
	case err != nil:
		return 0, fmt.Errorf("cluster: write to etcd: %w", err)
	case !r.Succeeded:
		return 0, ErrConflict
	}
	return r.Header.Revision, nil
}

// Grant implements Store. Etcd counts leases in whole seconds.
func (s *Etcd) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	seconds := int64((ttl + time.Second - 1) / time.Second)
	r, err := s.client.Grant(ctx, max(seconds, 1))
	if err != nil {
		return 0, fmt.Errorf("cluster: grant a lease in etcd: %w", err)
	}
	return Lease(r.ID), nil
}

// KeepAlive implements Store.
func (s *Etcd) KeepAlive(ctx context.Context, l Lease) error {
	_, err := s.client.KeepAliveOnce(ctx, clientv3.LeaseID(l))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return ErrLeaseGone
	}
	if err != nil {
		return fmt.Errorf("cluster: keep a lease in etcd: %w", err)
	}
	return nil
}

// Revoke implements Store.
func (s *Etcd) Revoke(ctx context.Context, l Lease) error {
	_, err := s.client.Revoke(ctx, clientv3.LeaseID(l))
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("cluster: revoke a lease in etcd: %w", err)
	}
	return nil
}

// Watch implements Store. While etcd is away it waits for its return.
func (s *Etcd) Watch(ctx context.Context, prefix string, after int64,
	each func([]Entry)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	changes := s.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1))
	for r := range changes {
		if err := r.Err(); errors.Is(err, rpctypes.ErrCompacted) {
			return ErrCompacted
		} else if err != nil {
			return fmt.Errorf("cluster: watch %s in etcd: %w", prefix, err)
		}
		var batch []Entry
		for i, e := range r.Events {
			batch = append(batch, Entry{Key: string(e.Kv.Key), Value: e.Kv.Value,
				ModRevision: e.Kv.ModRevision, Deleted: e.Type == clientv3.EventTypeDelete})
			last := i == len(r.Events)-1
			if last || r.Events[i+1].Kv.ModRevision != e.Kv.ModRevision {
				each(batch)
				batch = nil
			}
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return fmt.Errorf("cluster: watch %s in etcd: closed", prefix)
}
