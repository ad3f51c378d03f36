package expertnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"drover/kernel"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/tensor"
	"drover/wire"
)

// Replicas is what a Server serves; *Host is one.
type Replicas interface {
	// Spec describes the model's experts.
	Spec() moe.Spec
	// Holds tells whether the expert is held.
	Holds(layer, expert int) bool
	// ComputeBatch sets b.Y to the experts' outputs for b.X, rounded to the row type,
	// and errs[i] to the i-th expert's error, which leaves its rows undefined; it wraps
	// ErrNotHeld if the expert is not held.
	ComputeBatch(b *moe.Batch, errs []error)
	// Count and Bytes say how many replicas are held, and the size of their weights.
	Count() int
	Bytes() int64
}

// Ahead computes batches of Replicas, several of them under way at a time; *Host is one.
// Methods are safe for concurrent use, but batches end in the order in which they began.
type Ahead interface {
	// Ahead is how many batches may be under way from Begin to End.
	Ahead() int
	// Begin begins a ComputeBatch, and End ends it; b and errs are the same and stay as they
	// are in between.
	Begin(b *moe.Batch, errs []error) Begun
	End(b *moe.Batch, errs []error, begun Begun)
}

// Events are called on what an operator wants to know. Each may be nil.
type Events struct {
	// StreamOpened is called after a Hello was accepted.
	StreamOpened func(address string)
	// StreamClosed is called when an opened stream ended, and why.
	StreamClosed func(address string, err error)
	// PingFlood is called when a stream is ended since more pings came on it than any router
	// sends. It is closed once its client has read what was sent before.
	PingFlood func(address string)
	// Fetched is called after a replica, or the rest of one, was sent to another node.
	Fetched func(FetchedReplica)
	// FrameRefused is called when a frame is not computed since it arrived corrupt, is not
	// what it should be, was sent before, or asks for an expert that is not held.
	FrameRefused func(address string, frameID uint64, status wire.Status, detail string)
	// ComputePanicked is called when the computation of a frame's experts panicked: a
	// bug. The frame was answered with an internal error.
	ComputePanicked func(layer int, experts []int32, value any, stack []byte)
}

// Options describes a Server. Replicas, NodeID, ModelDigest and Mode are required.
type Options struct {
	// Replicas computes the rows.
	Replicas Replicas
	// Ahead, if not nil, computes the same, with some batches on their way to a device or from
	// it while others are computed. It is used if it can have several under way.
	Ahead Ahead
	// NodeID and Epoch name this node and this life of it.
	NodeID string
	Epoch  uint64
	// ModelDigest identifies the checkpoint, Mode what the rows are rounded to.
	ModelDigest []byte
	Mode        kernel.Mode
	// KernelClass names the kernel class that Replicas compute with. Empty means the CPUs'.
	KernelClass string
	// MaxFrameBytes bounds the rows of one frame. Zero means 4 MiB. Too small makes
	// routers refuse the node; memory grows with it.
	MaxFrameBytes int
	// CreditBytes bounds the rows of one stream that are not yet answered. Zero
	// means 16 MiB. Below the router's need, links wait for each other's answers.
	CreditBytes int64
	// MaxStreams bounds the streams open at a time. Zero means 256.
	MaxStreams int
	// QueueFrames bounds the frames that wait for computation, over all streams.
	// Beyond it frames are answered as overloaded. Zero means 1024.
	QueueFrames int
	// CheckpointBytes, if not nil, returns the bytes of tensors read so far, for Status.
	CheckpointBytes func() uint64
	// Packed gives access to the packed weights that Fetch sends to other nodes. Nil means
	// that this node sends none.
	Packed Packed
	// PackedVersion is the version of the formats of packed weights.
	PackedVersion int
	// FetchBytesPerSecond bounds what Fetch sends, over all of its streams. Zero means no
	// bound but the frames: Fetch always yields to them. Negative means no bound at all.
	FetchBytesPerSecond int64
	// MaxFetches bounds the replicas that are sent at a time; eight times as many wait.
	// Zero means 4.
	MaxFetches int
	Events     Events
}

func (o *Options) setDefaults() {
	if o.MaxFrameBytes == 0 {
		o.MaxFrameBytes = 4 << 20
	}
	if o.CreditBytes == 0 {
		o.CreditBytes = 16 << 20
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 256
	}
	if o.QueueFrames == 0 {
		o.QueueFrames = 1024
	}
	if o.MaxFetches == 0 {
		o.MaxFetches = 4
	}
	if o.KernelClass == "" {
		o.KernelClass = kernel.Class(o.Mode)
	}
}

func (o *Options) validate() error {
	spec := moe.Spec{}
	if o.Replicas != nil {
		spec = o.Replicas.Spec()
	}
	rowBytes := spec.Hidden * dtypeOf(o.Mode).Size()
	switch {
	case o.Replicas == nil || o.NodeID == "" || len(o.ModelDigest) == 0:
		return errors.New("serve experts: Replicas, NodeID and ModelDigest are required")
	case o.Mode.RowType() != tensor.BF16 && o.Mode.RowType() != tensor.F32:
		return fmt.Errorf("serve experts: rows of mode %v cannot travel", o.Mode)
	case o.MaxFrameBytes < rowBytes || o.MaxFrameBytes > wire.MaxRowBytes:
		return fmt.Errorf("serve experts: frames of %d bytes must hold a row of %d, at most %d",
			o.MaxFrameBytes, rowBytes, wire.MaxRowBytes)
	case o.CreditBytes < int64(o.MaxFrameBytes):
		return fmt.Errorf("serve experts: credit of %d bytes is less than a frame of %d",
			o.CreditBytes, o.MaxFrameBytes)
	case o.MaxStreams < 0 || o.QueueFrames < 0 || o.MaxFetches < 0:
		return errors.New("serve experts: negative bounds")
	}
	return nil
}

// dtypeOf is the mode's row type on the wire.
func dtypeOf(m kernel.Mode) wire.DType {
	if m.RowType() == tensor.BF16 {
		return wire.BF16
	}
	return wire.Float32
}

// Server is the gRPC ExpertService of one node. Its streams feed one bounded queue,
// from which one goroutine computes, first come first served: the frame that has waited
// longest, together with those of the same layer.
type Server struct {
	droverv1.UnimplementedExpertServiceServer

	opts  Options
	spec  moe.Spec
	dtype wire.DType
	pool  *wire.Pool
	queue *frameQueue
	done  chan struct{} // closed by Close

	idle    sync.Pool // of *frame
	replies sync.Pool // of *wire.Response

	draining     atomic.Bool
	computing    atomic.Int64  // calls of ComputeBatch
	frames, rows atomic.Uint64 // computed so far
	batches      atomic.Uint64 // in so many computations
	revision     atomic.Uint64

	recorder *recorder // fixed after NewServer

	fetching     chan struct{} // holds a token for each replica that is sent
	hashing      sync.Mutex    // held while a body is hashed: one processor is enough for that
	fetchers     atomic.Int64  // that send or wait
	fetchedBytes atomic.Uint64 // sent so far
	fetchPace    pace

	mu      sync.Mutex // guards the fields below
	streams int
	closed  bool

	running sync.WaitGroup // the compute goroutine, two for each stream, one for each Fetch
}

// NewServer returns a Server that computes until Close. Register it with
// droverv1.RegisterExpertServiceServer on a grpc.Server made with ServerOptions.
func NewServer(opts Options) (*Server, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		opts:     opts,
		spec:     opts.Replicas.Spec(),
		dtype:    dtypeOf(opts.Mode),
		pool:     new(wire.Pool),
		queue:    newFrameQueue(opts.QueueFrames),
		done:     make(chan struct{}),
		fetching: make(chan struct{}, opts.MaxFetches),
		recorder: newRecorder(),
	}
	s.fetchPace.bytesPerSecond = opts.FetchBytesPerSecond
	s.opts.Replicas = &counted{Replicas: opts.Replicas, computing: &s.computing}
	s.idle.New = func() any { return new(frame) }
	s.replies.New = func() any { return new(wire.Response) }
	if opts.Ahead != nil && opts.Ahead.Ahead() > 1 {
		s.startAhead()
	} else {
		s.running.Go(s.computeFrames)
	}
	return s, nil
}

// ServerOptions returns the gRPC settings that a Server needs. Both windows are set
// since one alone would turn gRPC's own sizing off and leave the other at 64 KiB. A
// connection without calls is closed after a while: its client may be gone.
func ServerOptions() []grpc.ServerOption {
	const window, buffer = 16 << 20, 256 << 10
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(&wire.Codec{Pool: new(wire.Pool)}),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.ReadBufferSize(buffer),
		grpc.WriteBufferSize(buffer),
		grpc.MaxRecvMsgSize(wire.MaxMessageBytes),
		grpc.MaxSendMsgSize(wire.MaxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// SetRevision tells the newest placement revision that this node knows. It never goes
// back.
func (s *Server) SetRevision(revision uint64) {
	for {
		old := s.revision.Load()
		if revision <= old || s.revision.CompareAndSwap(old, revision) {
			return
		}
	}
}

// Close ends all streams and the computation and waits for their goroutines. It
// does not stop the grpc.Server.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Status reports what the node holds and has done.
func (s *Server) Status(context.Context, *droverv1.StatusRequest) (
	*droverv1.StatusResponse, error) {
	out := &droverv1.StatusResponse{
		NodeId:            s.opts.NodeID,
		Epoch:             s.opts.Epoch,
		ModelDigest:       s.opts.ModelDigest,
		NumericMode:       s.opts.Mode.String(),
		KernelClass:       s.opts.KernelClass,
		PlacementRevision: s.revision.Load(),
		ReplicaCount:      uint32(s.opts.Replicas.Count()),
		WeightBytes:       uint64(s.opts.Replicas.Bytes()),
		Frames:            s.frames.Load(),
		Rows:              s.rows.Load(),
		Batches:           s.batches.Load(),
		Pid:               uint64(os.Getpid()),
		ResidentBytes:     residentBytes(),
		FetchedBytes:      s.fetchedBytes.Load(),
	}
	if s.opts.CheckpointBytes != nil {
		out.CheckpointBytesRead = s.opts.CheckpointBytes()
	}
	return out, nil
}

// enter counts a stream in, if there is room; leave counts it out.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return status.Error(codes.Unavailable, "the expert node is stopping")
	}
	if s.streams >= s.opts.MaxStreams {
		return status.Errorf(codes.ResourceExhausted,
			"the expert node has %d streams open, its limit", s.streams)
	}
	s.streams++
	s.running.Add(2)
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	s.streams--
	s.mu.Unlock()
	s.running.Done()
}
