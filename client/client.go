// Package client asks a pool of coordinators for answers. When the coordinator that
// makes an answer is lost (killed, closed, cut off), the answer goes on at another one,
// with the very bytes that it would have had: the caller sees one stream, without a gap
// and without a repetition.
//
// A Client keeps a connection to each coordinator and watches its health. Generate gives
// a Stream, whose Recv brings the messages of CoordinatorService.Generate: one Started,
// any number of Deltas, one Finished, and then io.EOF. What a stream needs in order to be
// resumed is described at Resume in proto/drover/v1/coordinator.proto; any gRPC client can
// do the same by hand.
//
// Rules that the files rely on:
//
//   - K1, once: each token and each byte of text is returned once, in order.
//   - K2, bounded: nothing is waited for longer than Options.Patience without a new token,
//     nor beyond the caller's context.
//   - K3, only what may go better elsewhere is tried again: UNAVAILABLE, ABORTED,
//     RESOURCE_EXHAUSTED, and a stream that ends without having finished. All other errors
//     are the caller's at once.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// Options describes a pool. Addresses are required, and TLS or DialOptions.
type Options struct {
	// Addresses are the coordinators' gRPC addresses, HOST:PORT: 1 to 256. They must serve
	// the same model in the same numeric mode; one that does not refuses to resume.
	Addresses []string
	// TLS is the configuration of the connections: RootCAs must hold the authority that signed
	// the coordinators' certificates, which must name the hosts in Addresses. Certificates may
	// hold one of the role client, instead of an APIKey. It must not change after New. Nil
	// leaves it to DialOptions how connections are secured.
	TLS *tls.Config
	// APIKey is a key that drover keys made, sent with each call, and with nothing but TLS: a
	// pool in plain text that has one is refused. Empty sends none.
	APIKey string
	// DialOptions say more about how to connect; transport credentials must be among them
	// unless TLS is set.
	DialOptions []grpc.DialOption
	// Patience is how long an answer may be without a new token while coordinators are lost
	// or refuse it, and how long the whole pool may be away before requests fail. It does
	// not bound a coordinator that works. Zero means 30 s.
	Patience time.Duration
	// StallAfter is the silence before an answer's first token after which its coordinator is
	// asked whether it is well; without an answer within as long again the stream is taken for
	// lost. It doubles, up to Patience, for an answer to which this happens again. Little asks
	// in vain during a long prefill. Zero means 1 s.
	//
	// Between tokens it is only the most: as soon as some gaps were measured, by all streams of
	// the Client, silence is eight times as long as the longest of a hundred of them, at least
	// 100 ms, and doubles with each stream that the answer lost so; the coordinator has as long
	// to say how it is, or eight times as long as it took before.
	StallAfter time.Duration
	// Events tell what happens.
	Events Events

	connect func(address string) (conn, error) // tests replace it
}

// Events are optional funcs, called from the goroutine that uses the stream.
type Events struct {
	// Lost is called when a stream was lost and its answer is to go on elsewhere.
	Lost func(Lost)
	// Resumed is called when it goes on.
	Resumed func(Resumed)
}

// Lost describes a lost stream.
type Lost struct {
	// RequestID is empty if no coordinator had accepted the request yet.
	RequestID string
	// Address is that of the coordinator, Tokens how many of the answer had come.
	Address string
	Tokens  int
	Err     error
}

// Resumed describes an answer that goes on.
type Resumed struct {
	RequestID, Address string
	Tokens             int
	// After is the time since the stream was lost.
	After time.Duration
}

// maxAddresses bounds the coordinators of a pool.
const maxAddresses = 256

func (o *Options) setDefaults() {
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.StallAfter == 0 {
		o.StallAfter = time.Second
	}
	if o.connect == nil {
		o.connect = o.dial
	}
	if o.Events.Lost == nil {
		o.Events.Lost = func(Lost) {}
	}
	if o.Events.Resumed == nil {
		o.Events.Resumed = func(Resumed) {}
	}
}

func (o *Options) validate() error {
	switch {
	case len(o.Addresses) == 0 || len(o.Addresses) > maxAddresses:
		return fmt.Errorf("client: %d addresses, want 1 to %d", len(o.Addresses), maxAddresses)
	case slices.Contains(o.Addresses, ""):
		return errors.New("client: an address is empty")
	case strings.ContainsFunc(o.APIKey, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("client: APIKey has spaces, line ends or bytes that are not ASCII")
	case o.Patience < 0 || o.StallAfter < 0:
		return fmt.Errorf("client: Patience is %v and StallAfter %v, want none negative",
			o.Patience, o.StallAfter)
	}
	return nil
}

// conn is a connection that can be closed.
type conn interface {
	grpc.ClientConnInterface
	Close() error
}

// dial makes a connection that is there again soon after its coordinator is, and that
// ends when nothing comes back from there.
func (o *Options) dial(address string) (conn, error) {
	again := grpc.ConnectParams{MinConnectTimeout: 3 * time.Second, Backoff: backoff.Config{
		BaseDelay: firstWait, Multiplier: 2, Jitter: 0.2, MaxDelay: lastWait}}
	opts := append([]grpc.DialOption{grpc.WithConnectParams(again),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second,
			Timeout: 5 * time.Second})}, o.DialOptions...)
	if o.TLS != nil {
		opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(o.TLS)))
	}
	if o.APIKey != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(o.APIKey)))
	}
	return grpc.NewClient(address, opts...)
}

// bearer sends an API key.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: a key in plain text
// would be everybody's.
func (bearer) RequireTransportSecurity() bool { return true }

// errClosed is what streams of a closed client get.
var errClosed = status.Error(codes.Canceled, "the client is closed")

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Client is a pool of coordinators. Many goroutines may use it.
type Client struct {
	opts   Options // fixed after New
	cancel context.CancelFunc
	done   <-chan struct{} // closed by Close
	wg     sync.WaitGroup
	pace   pace

	mu        sync.Mutex // guards the fields below and those of endpoints
	endpoints []*endpoint
	turn      int           // where the next choice begins
	deadSince time.Time     // zero while a coordinator answers
	changed   chan struct{} // closed, and replaced, when an endpoint changes
}

// New makes a client and begins to connect. Close ends it.
func New(o Options) (*Client, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Client{opts: o, deadSince: time.Now(), changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.done = cancel, ctx.Done()
	for _, address := range o.Addresses {
		conn, err := o.connect(address)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("client: connect to %s: %w", address, err)
		}
		c.endpoints = append(c.endpoints, &endpoint{address: address, conn: conn,
			coordinator: droverv1.NewCoordinatorServiceClient(conn),
			health:      healthv1.NewHealthClient(conn), restart: func() {}})
	}
	for _, e := range c.endpoints {
		c.wg.Go(func() { c.watch(ctx, e) })
	}
	return c, nil
}

// Close ends the streams that are open and closes all connections.
func (c *Client) Close() {
	c.cancel()
	for _, e := range c.endpoints {
		_ = e.conn.Close() // there is nothing to lose
	}
	c.wg.Wait()
}

// Generate asks for an answer. The request must not change until the stream has ended.
// If it has a Resume, the stream goes on from there. Errors come from the stream's Recv.
//
// The stream must be read to its end or error, or be closed, or ctx must end.
func (c *Client) Generate(ctx context.Context, req *droverv1.GenerateRequest) *Stream {
	return c.generate(ctx, req, nil)
}

// Probe returns nil as soon as a coordinator answers, even if only that it is not ready,
// and an error if none does at the first try: for commands that should not wait for a
// pool that is not there.
func (c *Client) Probe(ctx context.Context) error {
	for {
		c.mu.Lock()
		alive, tried := c.deadSince.IsZero(), true
		for _, e := range c.endpoints {
			tried = tried && e.tried
		}
		changed, err := c.changed, c.whyDead()
		c.mu.Unlock()
		switch {
		case alive:
			return nil
		case tried:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
