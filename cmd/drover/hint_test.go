package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// TestHints says what to do about errors of coordinators: what is away is named, not
// something that runs.
func TestHints(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string // a part of the hint, or nothing
	}{
		"away": {status.Error(codes.Unavailable, "connection refused"), "drover up"},
		"etcd": {status.Error(codes.Unavailable, "etcd does not answer: cluster: write to etcd: "+
			"context deadline exceeded"), "majority of etcd's members"},
		"no replica": {status.Error(codes.Unavailable, "layer 1 expert 13: no live replica"),
			"drover nodes"},
		"no template": {status.Error(codes.FailedPrecondition,
			"chat: this model has no chat template; give text or tokens"), "--prompts FILE"},
		"refused": {status.Error(codes.InvalidArgument, "sampling.temperature: is -1"), ""},
		"own":     {errors.New("open x: no such file"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hint(tc.err); !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("hint(%v) = %q, want %q in it", tc.err, got, tc.want)
			}
		})
	}
}

// TestHintsOfPorts asks ports that speak otherwise: their errors have hints of their own, which
// depend on what gRPC says.
func TestHintsOfPorts(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, tc := range map[string]struct {
		address net.Addr
		at      reach
		want    string
	}{
		"plain text to TLS":  {secure.Listener.Addr(), reach{plain: true}, "leave out --plaintext"},
		"TLS to plain text":  {plain.Listener.Addr(), reach{ca: caOf(t)}, "--plaintext reaches it"},
		"plain text to HTTP": {plain.Listener.Addr(), reach{plain: true}, "this is an HTTP port"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, stop, err := dial(tc.address.String(), tc.at)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err = droverv1.NewClusterServiceClient(conn).ListNodes(ctx, &droverv1.ListNodesRequest{})
			if got := hint(err); !strings.Contains(got, tc.want) {
				t.Errorf("%v has the hint %q, want %q in it", err, got, tc.want)
			}
		})
	}
}

// caOf is the file of some authority.
func caOf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if code, _, stderr := drover(t, "certs", "ca", "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	return filepath.Join(dir, "ca.crt")
}
