package role

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
)

// dialOptions are those of the links to the expert nodes, whose addresses come from
// the cluster's store: without plain they reach loopback only.
func dialOptions(plain bool) []grpc.DialOption {
	if plain {
		return nil
	}
	return []grpc.DialOption{grpc.WithContextDialer(dialLoopback)}
}

// dialLoopback refuses to carry rows to another machine in plain text.
func dialLoopback(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("expert node %s is not on loopback and Drover has no TLS yet: "+
			"--insecure allows plain text on a network that you trust", address)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}
