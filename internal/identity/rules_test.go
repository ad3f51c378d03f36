package identity

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// TestRules calls unary methods and streams that rules give to others, to nobody, or to the
// caller.
func TestRules(t *testing.T) {
	a := authority(t, "x")
	at := source(t, folder(t, a, Request{ID: ID{"x", ExpertNode}}), Events{})
	g := grpc.NewServer(append(Rules{
		"/grpc.health.v1.Health/":      {Coordinator, ExpertNode},
		"/grpc.health.v1.Health/Watch": {Coordinator},
	}.ServerOptions(), grpc.Creds(credentials.NewTLS(at.OpenServer(Coordinator, ExpertNode))))...)
	healthv1.RegisterHealthServer(g, health.NewServer())
	reflection.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }() // it ends when the server is stopped
	defer g.Stop()
	for _, tc := range []struct {
		who                   Role
		check, watch, reflect codes.Code
	}{
		{Coordinator, codes.OK, codes.OK, codes.PermissionDenied},
		{ExpertNode, codes.OK, codes.PermissionDenied, codes.PermissionDenied},
		{"", codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
	} {
		cfg := at.Client(ExpertNode)
		if tc.who == "" {
			cfg.GetClientCertificate = nil
		} else {
			cfg = source(t, folder(t, a, Request{ID: ID{"x", tc.who}}), Events{}).Client(ExpertNode)
		}
		conn, err := grpc.NewClient(l.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, check := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		watcher, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, watch := watcher.Recv()
		s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, reflect := s.Recv()
		for what, got := range map[string][2]codes.Code{"check": {status.Code(check), tc.check},
			"watch": {status.Code(watch), tc.watch}, "reflect": {status.Code(reflect), tc.reflect}} {
			if got[0] != got[1] {
				t.Errorf("%q: %s: %v, want %v", tc.who, what, got[0], got[1])
			}
		}
	}
}
