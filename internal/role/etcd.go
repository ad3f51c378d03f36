package role

import (
	"context"
	"path/filepath"

	"drover/cluster"
	"drover/cluster/etcdserver"
	"drover/internal/identity"
)

// EtcdTLS is how a member of etcd uses the identity in a folder: for its clients, which may be
// of the roles that use etcd, and for the other members.
func EtcdTLS(dir string) (client, peer etcdserver.TLSFiles) {
	files := etcdserver.TLSFiles{Certificate: filepath.Join(dir, identity.CertificateFile),
		Key: filepath.Join(dir, identity.KeyFile), Authority: filepath.Join(dir, identity.AuthorityFile)}
	client, peer = files, files
	client.Names = []string{string(identity.Etcd), string(identity.Coordinator),
		string(identity.ExpertNode)}
	peer.Names = []string{string(identity.Etcd)}
	return client, peer
}

// SecureEtcd lets the roles of a cluster do what they need in etcd, and nothing else. The
// identity is that of a member.
func SecureEtcd(ctx context.Context, endpoint string, id *identity.Source) error {
	tls, name := id.Client(identity.Etcd), id.ID().Cluster
	err := etcdserver.Restrict(ctx, endpoint, tls, string(identity.Etcd), etcdGrants(name))
	if err != nil {
		return err
	}
	store, err := cluster.OpenEtcd(cluster.EtcdConfig{Endpoints: []string{endpoint}, TLS: tls})
	if err != nil {
		return err
	}
	defer store.Close()
	return cluster.Found(ctx, store, name)
}

// etcdGrants are what the roles of a cluster may do in etcd.
func etcdGrants(name string) []etcdserver.Grant {
	read, write := cluster.NodeKeys(name)
	return []etcdserver.Grant{
		{User: string(identity.Coordinator), Write: cluster.CoordinatorKeys(name)},
		{User: string(identity.ExpertNode), Read: read, Write: write},
	}
}
