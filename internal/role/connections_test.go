package role

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// connectIdle opens so many connections that say nothing, until the test ends.
func connectIdle(t *testing.T, address string, count int) []net.Conn {
	t.Helper()
	var all []net.Conn
	for range count {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		all = append(all, c)
	}
	return all
}

// isClosed waits until the other side has closed a connection.
func isClosed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a connection that should have been closed: %v", err)
	}
}

// counts tells how many connections there are, and how many of them are idle.
func (b *bounded) counts() (open, idle int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open, b.idle.Len()
}

// TestBoundedHTTP holds more connections than a server may have: those that do nothing give way,
// those that wait for an answer do not.
func TestBoundedHTTP(t *testing.T) {
	const most = 4
	entered, answer := make(chan struct{}, most), make(chan struct{})
	server := &http.Server{ReadHeaderTimeout: within,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				entered <- struct{}{}
				<-answer
			}
		})}
	said := make(saidLines, 16)
	b := bound(loopback(t), most, slog.New(slog.NewTextHandler(said, nil)))
	b.serveHTTP(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(b)
	}()
	defer func() {
		_ = server.Close()
		<-done
	}()
	address := b.Addr().String()
	ask := func(c net.Conn, path string) {
		t.Helper()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
	}
	answered := func(c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(within))
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", r, err)
		}
	}
	old := connectIdle(t, address, 3*most)
	for _, c := range old[:2*most] {
		isClosed(t, c)
	}
	kept := connectIdle(t, address, 1)[0]
	ask(kept, "/")
	answered(kept)
	// A client has its answer a moment before the server calls its connection idle.
	allIdle := func() {
		t.Helper()
		await(t, "all connections are idle", func() (bool, string) {
			open, idle := b.counts()
			return open == most && idle == most, fmt.Sprintf("%d open, %d idle", open, idle)
		})
	}
	allIdle()
	var busy []net.Conn
	for range most {
		busy = append(busy, connectIdle(t, address, 1)...)
		ask(busy[len(busy)-1], "/slow")
		<-entered
	}
	isClosed(t, kept) // between two requests
	isClosed(t, connectIdle(t, address, 1)[0])
	if line := <-said; !strings.Contains(line, "connections are refused") {
		t.Errorf("the log says %q", line)
	}
	close(answer)
	for _, c := range busy {
		answered(c)
	}
	allIdle()
	late := connectIdle(t, address, 1)[0]
	ask(late, "/")
	answered(late)
}

// TestBoundedGRPC is TestBoundedHTTP for gRPC: a connection that has said something is in use. The
// server's end waits for none of the others.
func TestBoundedGRPC(t *testing.T) {
	const most = 3
	s := grpc.NewServer(append(connections(), grpc.ConnectionTimeout(time.Hour))...)
	healthv1.RegisterHealthServer(s, health.NewServer())
	b := bound(loopback(t), most, slog.New(slog.DiscardHandler))
	defer serve(s, spoken{b})()
	var dialled atomic.Int64
	connect := func() func() {
		conn, err := grpc.NewClient(b.Addr().String(),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				dialled.Add(1)
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return func() {
			t.Helper()
			if _, err := healthv1.NewHealthClient(conn).Check(t.Context(),
				&healthv1.HealthCheckRequest{}); err != nil {
				t.Error(err)
			}
		}
	}
	first, second := connect(), connect()
	first()
	for _, c := range connectIdle(t, b.Addr().String(), 20)[:18] {
		isClosed(t, c)
	}
	second()
	first()
	if n := dialled.Load(); n != 2 {
		t.Errorf("two clients connected %d times", n)
	}
}
