package role

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	// closeGrace is how long clients may take to read the end of what they asked for.
	closeGrace = time.Second
	// pingEvery is how often a client may ask whether the connection lives.
	pingEvery = 5 * time.Second
	// greetTime is how long a client may take to begin to speak.
	greetTime = 10 * time.Second
	// idleTime is how long a connection may be open without a call; clients connect again.
	idleTime = 2 * time.Minute
	// quietTime is how long a client may be silent before it is asked whether it is there.
	quietTime = 30 * time.Second
)

// connections lets clients find out by themselves that their connection is dead, and closes those
// that clients have left or do not use.
func connections() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(greetTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, Time: quietTime}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery}),
	}
}

// serveGently is serve, but stop lets calls end by themselves for a moment, so that their
// clients get the status that they ended with instead of a broken connection.
func serveGently(s *grpc.Server, l net.Listener) (stop func()) {
	stopNow := serve(s, l)
	return func() {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.GracefulStop()
		}()
		timer := time.NewTimer(closeGrace)
		defer timer.Stop()
		select {
		case <-ended:
		case <-timer.C:
		}
		stopNow() // this ends GracefulStop, too
		<-ended
	}
}

// healthServer is gRPC's, whose Watch also ends when the coordinator closes: it would keep
// the server from ending by itself.
type healthServer struct {
	*health.Server
	closing <-chan struct{}
}

func (h healthServer) Watch(
	req *healthv1.HealthCheckRequest, out grpc.ServerStreamingServer[healthv1.HealthCheckResponse],
) error {
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	go func() {
		select {
		case <-h.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return h.Server.Watch(req, watchStream{out, ctx})
}

// watchStream is a stream with another context.
type watchStream struct {
	grpc.ServerStreamingServer[healthv1.HealthCheckResponse]
	ctx context.Context
}

func (s watchStream) Context() context.Context { return s.ctx }
