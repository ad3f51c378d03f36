package identity

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Rules says which roles may call which gRPC methods: by the full name of a method,
// /package.Service/Method, or of a service, /package.Service/. What is in no rule is
// refused to everybody (I2).
type Rules map[string][]Role

// check returns an error with the code of a refusal unless a role may call a method.
func (r Rules) check(ctx context.Context, method string) error {
	id := Peer(ctx)
	roles, ok := r[method]
	if !ok {
		roles = r[method[:strings.LastIndexByte(method, '/')+1]]
	}
	if slices.Contains(roles, id.Role) {
		return nil
	}
	who := "a caller without a certificate"
	if id != (ID{}) {
		who = "role " + string(id.Role)
	}
	return status.Errorf(codes.PermissionDenied, "%s may not call %s", who, method)
}

// ServerOptions enforce the rules on a server whose connections a Source's Server checks.
func (r Rules) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo,
			next grpc.UnaryHandler) (any, error) {
			if err := r.check(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream,
			info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := r.check(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	}
}
