package expertnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// Packed gives access to the packed weights of replicas.
type Packed interface {
	// Body returns a replica's packed weights. The error wraps ErrNotHeld if the node has
	// none. It is safe for concurrent use.
	Body(layer, expert int) (Body, error)
}

// Body is a replica's packed weights as one run of bytes. It is safe for concurrent use.
type Body interface {
	io.ReaderAt
	// Size is the size in bytes.
	Size() int64
	// Content is the SHA-256 of all of them.
	Content() [32]byte
}

// FetchedReplica says what one Fetch sent.
type FetchedReplica struct {
	Replica Replica
	// To is the address of the node that asked.
	To string
	// Bytes were sent, in Took.
	Bytes int64
	Took  time.Duration
}

// maxFetchChunk is the most that one message of Fetch carries: large enough for a fast
// link, small enough that a frame behind it on the same link waits for milliseconds.
const maxFetchChunk = 64 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Fetch sends a replica's packed weights to another node. It has less right to the
// machine than frames have: see pace.
func (s *Server) Fetch(r *droverv1.FetchRequest,
	g grpc.ServerStreamingServer[droverv1.FetchResponse]) error {
	ctx := g.Context()
	if err := s.enterFetch(); err != nil {
		return err
	}
	defer s.leaveFetch()
	replica, err := s.checkFetch(r)
	if err != nil {
		return err
	}
	body, err := s.fetchBody(replica)
	switch {
	case err != nil:
		return err
	case uint64(body.Size()) != r.SizeBytes:
		return status.Errorf(codes.FailedPrecondition,
			"layer %d expert %d is %d bytes, the other node expects %d", replica.Layer,
			replica.Expert, body.Size(), r.SizeBytes)
	case r.HeaderOnly:
		return s.sendHeaders(g, body, r.Further)
	}
	h := s.fetchHeader(body, r)
	if err := sendHeader(g, h); err != nil {
		return err
	}
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.fetching }()
	began := time.Now()
	if err := s.sendBody(ctx, g, body, int64(h.Offset)); err != nil {
		return err
	}
	if f := s.opts.Events.Fetched; f != nil {
		to := "unknown"
		if p, ok := peer.FromContext(ctx); ok {
			to = p.Addr.String()
		}
		f(FetchedReplica{replica, to, body.Size() - int64(h.Offset), time.Since(began)})
	}
	return nil
}

// waitingFetches is how many may wait for each that sends.
const waitingFetches = 8

// enterFetch counts a Fetch in, if there is room; leaveFetch counts it out.
func (s *Server) enterFetch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return status.Error(codes.Unavailable, "the expert node is stopping")
	}
	if n := s.fetchers.Load(); n >= int64((1+waitingFetches)*s.opts.MaxFetches) {
		return status.Errorf(codes.ResourceExhausted,
			"%d nodes fetch replicas or wait for it, the limit", n)
	}
	s.fetchers.Add(1)
	s.running.Add(1)
	return nil
}

func (s *Server) leaveFetch() {
	s.fetchers.Add(-1)
	s.running.Done()
}

// takeTurn waits for a place among those that send.
func (s *Server) takeTurn(ctx context.Context) error {
	select {
	case s.fetching <- struct{}{}:
		return nil
	case <-s.done:
		return status.Error(codes.Unavailable, "the expert node is stopping")
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// checkFetch refuses requests for what this node cannot have.
func (s *Server) checkFetch(r *droverv1.FetchRequest) (Replica, error) {
	replica := Replica{int(r.Layer), int(r.Expert)}
	refuse := func(format string, args ...any) (Replica, error) {
		return replica, status.Errorf(codes.FailedPrecondition, format, args...)
	}
	switch {
	case s.opts.Packed == nil:
		return replica, status.Error(codes.Unimplemented, "this expert node sends no weights")
	case !bytes.Equal(r.ModelDigest, s.opts.ModelDigest):
		return refuse("model digest: the other node has %.64x, this one %x", r.ModelDigest,
			s.opts.ModelDigest)
	case r.NumericMode != s.opts.Mode.String():
		return refuse("numeric mode: the other node has %.64q, this one %q", r.NumericMode,
			s.opts.Mode.String())
	case int64(r.FormatVersion) != int64(s.opts.PackedVersion):
		return refuse("version of packed weights: the other node has %d, this one %d",
			r.FormatVersion, s.opts.PackedVersion)
	case len(r.Further) > maxFurther:
		return replica, status.Errorf(codes.InvalidArgument,
			"headers of %d further replicas are asked for, at most %d may be", len(r.Further),
			maxFurther)
	case r.Offset > r.SizeBytes:
		return replica, status.Errorf(codes.InvalidArgument, "offset %d of %d bytes", r.Offset,
			r.SizeBytes)
	}
	return replica, nil
}

// fetchBody is the body of a replica that is held.
func (s *Server) fetchBody(r Replica) (Body, error) {
	if !s.opts.Replicas.Holds(r.Layer, r.Expert) {
		return nil, status.Errorf(codes.NotFound, "layer %d expert %d: %v", r.Layer, r.Expert,
			ErrNotHeld)
	}
	b, err := s.opts.Packed.Body(r.Layer, r.Expert)
	switch {
	case errors.Is(err, ErrNotHeld):
		return nil, status.Error(codes.NotFound, err.Error())
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	return b, nil
}

// maxFurther bounds the headers that one Fetch asks for beside the first.
const maxFurther = 256

// sendHeaders sends a body's header and those of further replicas. They are hashed on a thread
// that has less right to the processor than frames have.
func (s *Server) sendHeaders(g grpc.ServerStreamingServer[droverv1.FetchResponse], first Body,
	further []*droverv1.FetchReplica) error {
	ctx := g.Context()
	headers := make(chan *droverv1.FetchHeader)
	s.running.Go(func() {
		Background()
		defer close(headers)
		next := s.fetchHeader(first, nil)
		for _, r := range further {
			if !handOver(ctx, s.done, headers, next) {
				return
			}
			next = &droverv1.FetchHeader{}
			if b, err := s.fetchBody(Replica{int(r.Layer), int(r.Expert)}); err == nil {
				next = s.fetchHeader(b, nil)
			}
		}
		handOver(ctx, s.done, headers, next)
	})
	sent := 0
	for h := range headers {
		if err := sendHeader(g, h); err != nil {
			return err // its context ends, and so does the hashing
		}
		sent++
	}
	if sent <= len(further) {
		return status.Error(codes.Unavailable, "the expert node is stopping")
	}
	return nil
}

// handOver sends on a channel, unless ctx or done ends first.
func handOver[T any](ctx context.Context, done <-chan struct{}, to chan<- T, v T) bool {
	select {
	case to <- v:
		return true
	case <-ctx.Done():
	case <-done:
	}
	return false
}

func sendHeader(g grpc.ServerStreamingServer[droverv1.FetchResponse],
	h *droverv1.FetchHeader) error {
	return g.Send(&droverv1.FetchResponse{Kind: &droverv1.FetchResponse_Header{Header: h}})
}

// fetchHeader says what is sent: the rest of what the other node has, or all. A nil request has
// nothing.
func (s *Server) fetchHeader(b Body, r *droverv1.FetchRequest) *droverv1.FetchHeader {
	s.hashing.Lock()
	content := b.Content()
	s.hashing.Unlock()
	h := &droverv1.FetchHeader{SizeBytes: uint64(b.Size()), ContentSha256: content[:]}
	if bytes.Equal(r.GetContentSha256(), content[:]) {
		h.Offset = r.Offset
	}
	h.Crc32C = FetchHeaderSum(h)
	return h
}

// FetchHeaderSum is the checksum that a FetchHeader must carry.
func FetchHeaderSum(h *droverv1.FetchHeader) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], h.SizeBytes)
	binary.LittleEndian.PutUint64(b[8:], h.Offset)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, h.ContentSha256)
}

// sendBody sends a body from an offset on.
func (s *Server) sendBody(ctx context.Context,
	g grpc.ServerStreamingServer[droverv1.FetchResponse], body Body, offset int64) error {
	buf := make([]byte, min(s.fetchPace.chunkBytes(), body.Size()-offset))
	var head [8]byte
	for offset < body.Size() {
		n := min(int64(len(buf)), body.Size()-offset)
		if err := s.fetchPace.wait(ctx, s, n); err != nil {
			return err
		}
		if _, err := body.ReadAt(buf[:n], offset); err != nil {
			return status.Error(codes.Internal, fmt.Sprintf("read packed weights: %v", err))
		}
		binary.LittleEndian.PutUint64(head[:], uint64(offset))
		sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, buf[:n])
		if err := g.Send(&droverv1.FetchResponse{Kind: &droverv1.FetchResponse_Chunk{
			Chunk: &droverv1.FetchChunk{Offset: uint64(offset), Crc32C: sum, Weights: buf[:n]},
		}}); err != nil {
			return err
		}
		s.fetchedBytes.Add(uint64(n))
		offset += n
	}
	return nil
}
