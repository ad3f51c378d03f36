package main

import (
	"net"
	"net/http"
	"regexp"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// httpAt is where a coordinator logs that it serves HTTP.
var httpAt = regexp.MustCompile(`msg=ready .*http=(\S+)`)

// TestConnectionsHeld lets clients hold on each port of a coordinator more idle connections than
// it may have files open: it is asked as before.
func TestConnectionsHeld(t *testing.T) {
	r := newRoles(t)
	r.expertNode(t, place{}, "left", "--short-lease")
	r.expertNode(t, place{}, "right", "--short-lease")
	few := place{via: []string{"sh", "-c", `ulimit -n 220; exec "$@"`, "few"}}
	p, endpoint := r.coordinator(t, few, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--admin", "127.0.0.1:0", "--short-lease")
	want := connectTo(t, endpoint).mustAsk(t, story)
	web := httpAt.FindStringSubmatch(p.errors.String())[1]
	admin := adminAt.FindStringSubmatch(p.errors.String())[1]
	for _, address := range []string{endpoint, web, admin} {
		for range 260 {
			c, err := net.DialTimeout("tcp", address, 10*slack*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	for name, address := range map[string]string{"HTTP": web, "admin": admin} {
		client := &http.Client{Timeout: 10 * slack * time.Second}
		reply, err := client.Get("http://" + address + "/readyz")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = reply.Body.Close()
		if reply.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", name, reply.Status)
		}
	}
	c := connectTo(t, endpoint)
	h, err := healthv1.NewHealthClient(c.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || h.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("gRPC: %v, %v", h, err)
	}
	if got := c.mustAsk(t, story); got != want {
		t.Errorf("%q, before %q", got, want)
	}
}
