package router

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"drover/kernel"
	"drover/moe"
	"drover/tensor"
	"drover/wire"
)

// Options tunes a Router. ModelDigest, Mode and Spec are required; zero elsewhere
// is ready for production.
type Options struct {
	// ModelDigest identifies the checkpoint, Mode what rows are rounded to. Nodes
	// that differ are refused.
	ModelDigest []byte
	Mode        kernel.Mode
	// KernelClass, if not empty, is the only kernel class that nodes may have.
	KernelClass string
	// Spec describes the model's experts.
	Spec moe.Spec
	// Lanes is the number of Forwards that run at a time. Zero means 2; each lane
	// costs a connection to every node.
	Lanes int
	// MaxFrameBytes bounds the rows of one frame. Zero means 256 rows, at most 4 MiB.
	// Small frames cost more headers; nodes refuse frames larger than their bound.
	MaxFrameBytes int
	// CreditBytes bounds the rows on one link that are not yet answered. Zero means
	// 16 MiB; a node may allow less.
	CreditBytes int64
	// FrameTimeout is how long a link may stay silent while a frame waits on it,
	// before the frame is sent elsewhere. Zero means 100 ms. Lower suspects nodes
	// that are merely busy, higher delays the tokens of a request when a node hangs.
	FrameTimeout time.Duration
	// HedgeFraction is the part of all rows that may be sent twice since an answer takes
	// unusually long, or to learn how fast a node is. Zero means 1/20. Lower keeps tokens
	// waiting for slow nodes, higher loads the others. Frames of silent nodes are always
	// sent again.
	HedgeFraction float64
	// CheckFraction is the part of all frames that are computed by two nodes and compared,
	// to find nodes that compute wrongly. Zero means 1/256, negative none. Higher finds them
	// sooner and costs as much more work; what a wrong node returned before stays used. A check
	// that would take long is left out, but for 1: then nothing is used that was not compared,
	// as long as Local can compute it.
	CheckFraction float64
	// SlowTimeout bounds the wait for one frame of a node that shows signs of life.
	// Zero means 30 s. It must exceed the longest computation of a frame.
	SlowTimeout time.Duration
	// FailAfter bounds how long Forward looks for someone to compute an expert, and waits for
	// Local to load and compute it. Zero means 30 s: enough for nodes to start again and load
	// what they are given. Lower fails requests that would have been answered, higher keeps
	// clients waiting.
	FailAfter time.Duration
	// Local computes experts that no node computes in time. Nil means that they wait for
	// a node.
	Local LocalExperts
	// Credentials secure the connections. Nil means none: plain text.
	Credentials credentials.TransportCredentials
	// DialOptions are added to those that the Router needs.
	DialOptions []grpc.DialOption
	Events      Events

	// pick, if not nil, chooses among equally good replicas; for tests. It gets
	// their number.
	pick func(n int) int
}

// Events are called on what an operator wants to know, from any goroutine, and
// must not block. Each may be nil.
type Events struct {
	// LinkUp is called when a lane's link to a node is connected.
	LinkUp func(nodeID string, lane int)
	// LinkDown is called when a link was lost or could not be connected, once for
	// each series of equal errors.
	LinkDown func(nodeID string, lane int, err error)
	// Suspected is called when a node let a frame wait too long and is routed around.
	Suspected func(nodeID string, lane int)
	// Stuck is called when a node has answered none of its frames for seconds, though it says
	// that it is alive. It is routed around until it answers.
	Stuck func(nodeID string, lane int)
	// Retried is called when experts are sent again, and why.
	Retried func(nodeID string, layer int, experts int, reason error)
	// Hedged is called when a frame that waits is also sent to another replica.
	Hedged func(nodeID string, layer int)
	// BadAnswer is called when an answer is not used: its checksum does not fit, it does not
	// fit its frame, or it answers no frame that waits, as a replayed one.
	BadAnswer func(nodeID string, lane int, reason error)
	// Quarantined is called when a node returned wrong numbers for an expert: it is not used
	// any more until its epoch changes.
	Quarantined func(v Verdict)
	// Disputed is called when nodes returned different numbers for an expert, and nobody
	// can tell who is right.
	Disputed func(nodeIDs []string, layer, expert int)
	// LastResort is called when experts are computed on this machine: how many of a
	// layer, the first of them, and why no node computes it.
	LastResort func(layer, expert, experts int, reason error)
}

// Verdict is that a node returned wrong numbers.
type Verdict struct {
	NodeID string
	Epoch  uint64
	// Layer and Expert are what it computed wrongly.
	Layer, Expert int
	// Agreed says that two others computed the same; else this machine alone decided.
	Agreed bool
}

func (o *Options) dtype() wire.DType {
	if o.Mode.RowType() == tensor.BF16 {
		return wire.BF16
	}
	return wire.Float32
}

func (o *Options) rowBytes() int { return o.Spec.Hidden * o.dtype().Size() }

func (o *Options) setDefaults() {
	if o.Lanes == 0 {
		o.Lanes = 2
	}
	if o.MaxFrameBytes == 0 {
		o.MaxFrameBytes = max(o.rowBytes(), min(256*o.rowBytes(), 4<<20))
	}
	if o.CreditBytes == 0 {
		o.CreditBytes = 16 << 20
	}
	if o.FrameTimeout == 0 {
		o.FrameTimeout = 100 * time.Millisecond
	}
	if o.HedgeFraction == 0 {
		o.HedgeFraction = 1. / 20
	}
	if o.CheckFraction == 0 {
		o.CheckFraction = 1. / 256
	}
	if o.SlowTimeout == 0 {
		o.SlowTimeout = 30 * time.Second
	}
	if o.FailAfter == 0 {
		o.FailAfter = 30 * time.Second
	}
	if o.Credentials == nil {
		o.Credentials = insecure.NewCredentials()
	}
}

func (o *Options) validate() error {
	switch {
	case len(o.ModelDigest) == 0 || o.Spec.Hidden <= 0 || o.Spec.Experts <= 0:
		return errors.New("route to experts: ModelDigest and Spec are required")
	case o.Mode.RowType() != tensor.BF16 && o.Mode.RowType() != tensor.F32:
		return fmt.Errorf("route to experts: rows of mode %v cannot travel", o.Mode)
	case o.HedgeFraction < 0 || o.HedgeFraction > 1:
		return fmt.Errorf("route to experts: HedgeFraction is %v, must be 0 to 1", o.HedgeFraction)
	case o.CheckFraction > 1:
		return fmt.Errorf("route to experts: CheckFraction is %v, must be at most 1", o.CheckFraction)
	case o.Lanes < 0 || o.FrameTimeout < 0 || o.SlowTimeout < 0 || o.FailAfter < 0:
		return errors.New("route to experts: negative bounds")
	case o.MaxFrameBytes < o.rowBytes() || o.MaxFrameBytes > wire.MaxRowBytes:
		return fmt.Errorf("route to experts: frames of %d bytes must hold a row of %d, at most %d",
			o.MaxFrameBytes, o.rowBytes(), wire.MaxRowBytes)
	case o.CreditBytes < int64(o.MaxFrameBytes):
		return fmt.Errorf("route to experts: credit of %d bytes is less than a frame of %d",
			o.CreditBytes, o.MaxFrameBytes)
	}
	return nil
}

// dialOptions are the gRPC settings of a link: large windows, both of them since one
// alone leaves the other at 64 KiB; no retries, since the Router does them itself; no
// keepalive, since the Router asks its links for signs of life (pulse.go), sooner than gRPC can,
// and gRPC's would have the kernel cut connections on which bytes take longer than its timeout.
func (r *Router) dialOptions() []grpc.DialOption {
	const window, buffer = 16 << 20, 256 << 10
	out := []grpc.DialOption{
		grpc.WithTransportCredentials(r.opts.Credentials),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithReadBufferSize(buffer),
		grpc.WithWriteBufferSize(buffer),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: minBackoff, Multiplier: 2, MaxDelay: maxBackoff},
			MinConnectTimeout: maxHelloTimeout}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(r.codec),
			grpc.MaxCallRecvMsgSize(wire.MaxMessageBytes),
			grpc.MaxCallSendMsgSize(wire.MaxMessageBytes)),
	}
	return append(out, r.opts.DialOptions...)
}
