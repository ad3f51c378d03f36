package role

import (
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// TestPlainText checks that rows do not leave the machine in plain text.
func TestPlainText(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"127.0.0.1:" + port: "",
		"192.0.2.1:7071":    "not on loopback",
		"example.com:7071":  "not on loopback",
		"127.0.0.1":         "missing port",
	} {
		conn, err := dialLoopback(t.Context(), address)
		if err == nil {
			_ = conn.Close()
		}
		if got := message(err); (want == "") != (err == nil) || !strings.Contains(got, want) {
			t.Errorf("dial %s: %q, want %q", address, got, want)
		}
	}
	// A link's error says why, and what to do.
	opts := append(NodeDialOptions(nil), grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("192.0.2.1:7071", opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if !strings.Contains(message(err), "--tls") {
		t.Errorf("a call to another machine: %v, want a hint at --tls", err)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
