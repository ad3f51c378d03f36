// Package identity says who a process of a cluster is, by a certificate that the
// cluster's authority has signed, and checks who the other side of a connection is.
//
// A certificate names a cluster and a role in a URI, drover://CLUSTER/ROLE. The other
// side is believed for its role, not for its address: nodes come and go at addresses that
// nobody knows when certificates are made. The rules:
//
//	I1  A hop is TLS 1.3 with certificates on both sides, of one cluster; the client says
//	    which role it wants to reach, the server which roles may reach it.
//	I2  What a role may do is a list of methods (Rules); what is not in it is refused.
//	I3  A connection is checked when it begins. Files are followed (Source), so that new
//	    connections use new certificates while old ones go on.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Role is what a process may do in a cluster.
type Role string

// The roles. A certificate's common name is its role, too: etcd knows its users by that.
const (
	Coordinator Role = "coordinator"
	ExpertNode  Role = "expertnode"
	Etcd        Role = "etcd"
	// Client asks coordinators; Metrics reads what processes count.
	Client  Role = "client"
	Metrics Role = "metrics"
)

// Roles are all roles.
var Roles = []Role{Coordinator, ExpertNode, Etcd, Client, Metrics}

// ParseRole reads a role.
func ParseRole(s string) (Role, error) {
	if r := Role(s); slices.Contains(Roles, r) {
		return r, nil
	}
	return "", fmt.Errorf("role %q is unknown: %s", s, join(Roles))
}

func join(roles []Role) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// scheme is that of the URI in a certificate.
const scheme = "drover"

// maxClusterBytes bounds a cluster's name.
const maxClusterBytes = 128

// ID is who a process is.
type ID struct {
	Cluster string
	Role    Role
}

// String is the URI that stands in certificates.
func (id ID) String() string { return scheme + "://" + id.Cluster + "/" + string(id.Role) }

// check refuses names that do not fit into a URI.
func (id ID) check() error {
	if id.Cluster == "" || len(id.Cluster) > maxClusterBytes {
		return fmt.Errorf("cluster %q, want 1 to %d bytes", id.Cluster, maxClusterBytes)
	}
	for _, c := range []byte(id.Cluster) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.':
		default:
			return fmt.Errorf("cluster %q has %q; a certificate names clusters of letters, "+
				"digits, dots and - or _", id.Cluster, c)
		}
	}
	_, err := ParseRole(string(id.Role))
	return err
}

// ErrNoRole says that a certificate names no role of a Drover cluster.
var ErrNoRole = errors.New("the certificate names no role (a URI drover://CLUSTER/ROLE, or a DNS " +
	"name ROLE.CLUSTER" + roleDomain + ")")

// roleDomain ends a DNS name that says what the URI does, ROLE.CLUSTER.drover.invalid, for tools
// that cannot put URIs into certificates. Nobody has a host of such a name (RFC 2606).
const roleDomain = ".drover.invalid"

// Of reads who a certificate is for. It must name one role.
func Of(c *x509.Certificate) (ID, error) {
	var found []ID
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		id := ID{u.Host, Role(strings.TrimPrefix(u.Path, "/"))}
		if err := id.check(); err != nil {
			return ID{}, fmt.Errorf("the certificate's URI %s: %w", u, err)
		}
		if id.String() != u.String() {
			return ID{}, fmt.Errorf("the certificate's URI is %s, want drover://CLUSTER/ROLE", u)
		}
		found = append(found, id)
	}
	for _, name := range c.DNSNames {
		rest, ok := strings.CutSuffix(name, roleDomain)
		if !ok {
			continue
		}
		role, cluster, _ := strings.Cut(rest, ".")
		id := ID{cluster, Role(role)}
		if err := id.check(); err != nil {
			return ID{}, fmt.Errorf("the certificate's DNS name %s: %w", name, err)
		}
		found = append(found, id)
	}
	if len(found) == 0 {
		return ID{}, ErrNoRole
	}
	for _, id := range found[1:] {
		if id != found[0] {
			return ID{}, errors.New("the certificate names several roles")
		}
	}
	return found[0], nil
}

// Peer is who called, as the connection of a gRPC call was checked by a Source's Server.
// Without a certificate it is the zero ID.
func Peer(ctx context.Context) ID {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ID{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return ID{}
	}
	return PeerOf(&info.State)
}

// PeerOf is Peer for a connection.
func PeerOf(c *tls.ConnectionState) ID {
	if c == nil || len(c.PeerCertificates) == 0 {
		return ID{}
	}
	id, err := Of(c.PeerCertificates[0])
	if err != nil {
		return ID{} // the handshake has refused it
	}
	return id
}
