package role

import (
	"context"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/coordinator"
)

// recovery turns a panic in a call, which is a bug, into INTERNAL for that call, and
// bounds what a client may send.
func recovery() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(2 * coordinator.MaxRequestBytes), // so that the engine says what is wrong
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo,
			next grpc.UnaryHandler) (resp any, err error) {
			defer recovered(info.FullMethod, &err)
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo,
			next grpc.StreamHandler) (err error) {
			defer recovered(info.FullMethod, &err)
			return next(srv, s)
		}),
	}
}

func recovered(method string, err *error) {
	if r := recover(); r != nil {
		slog.Error("a call panicked: this is a bug", "method", method, "value", r,
			"stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "%s: internal error", method)
	}
}
