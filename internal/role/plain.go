package role

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"drover/internal/identity"
	droverv1 "drover/proto/drover/v1"
)

// NodeDialOptions are those of connections to the expert nodes, whose addresses come from
// the cluster's store: with an identity they are encrypted and reach expert nodes of this
// cluster only; without one they reach loopback only.
func NodeDialOptions(id *identity.Source) []grpc.DialOption {
	if id != nil {
		return []grpc.DialOption{
			grpc.WithTransportCredentials(credentials.NewTLS(id.Client(identity.ExpertNode)))}
	}
	return []grpc.DialOption{grpc.WithContextDialer(dialLoopback)}
}

// nodeRules say who may call what of an expert node.
var nodeRules = identity.Rules{
	droverv1.ExpertService_Execute_FullMethodName: {identity.Coordinator},
	droverv1.ExpertService_Fetch_FullMethodName:   {identity.ExpertNode},
	droverv1.ExpertService_Status_FullMethodName:  {identity.Coordinator},
	"/grpc.health.v1.Health/":                     {identity.Coordinator, identity.ExpertNode},
	reflectionV1:                                  {identity.Coordinator},
	reflectionAlpha:                               {identity.Coordinator},
}

// The services of reflection, which tools ask for one or the other.
const (
	reflectionV1    = "/grpc.reflection.v1.ServerReflection/"
	reflectionAlpha = "/grpc.reflection.v1alpha.ServerReflection/"
)

// NodeServerOptions are those of an expert node's server: with an identity, connections are
// encrypted, and roles may call what is theirs.
func NodeServerOptions(id *identity.Source) []grpc.ServerOption {
	if id == nil {
		return nil
	}
	return append(nodeRules.ServerOptions(), grpc.Creds(credentials.NewTLS(
		id.Server(identity.Coordinator, identity.ExpertNode))))
}

// dialLoopback refuses to carry rows to another machine in plain text.
func dialLoopback(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("expert node %s is not on loopback and this process has no "+
			"certificate, which --tls gives it", address)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}
