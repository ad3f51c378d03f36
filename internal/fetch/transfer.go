package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"drover/expertnode"
	"drover/packed"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

const (
	// stall is how long a node may take for the next message: the sender's pauses for its
	// frames are much shorter. turn is how long it may let us wait before the first chunk,
	// while it sends to others; that it lives is then seen by keepalives.
	stall = 10 * time.Second
	turn  = 5 * time.Minute
	// busyTries and busyWait say how often and after what time a node is asked again that
	// sends to too many others.
	busyTries = 5
	busyWait  = 200 * time.Millisecond
)

var (
	errStalled  = errors.New("the node sent nothing for too long")
	errDisagree = errors.New("two nodes hold different weights for it")
)

// transfer brings one replica.
type transfer struct {
	source  *Source
	replica placement.Replica
	partial *packed.Partial
	began   int64 // offset of the last attempt

	// content is what the node with the identifier by says that the weights' SHA-256 is; nil:
	// nobody says anything.
	content *[32]byte
	by      string
}

// from asks one node after the other. What one has sent is not asked for again.
func (t *transfer) from(ctx context.Context, nodes []placement.Node) error {
	var err error
	for _, n := range nodes {
		if err = t.secondOpinion(ctx, n, nodes); err == nil {
			err = t.patiently(ctx, n)
		}
		if err == nil {
			t.source.count(n.Address, nil)
			t.source.fetched.Add(1)
			t.source.fetchedBytes.Add(t.partial.Size() - t.began)
			if f := t.source.opts.Events.Fetched; f != nil {
				f(t.replica, n.ID, t.partial.Size()-t.began, t.began)
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errDisagree) {
			return err
		}
		t.source.count(n.Address, err)
		t.failed(n, err)
	}
	return fmt.Errorf("fetch layer %d expert %d: %w", t.replica.Layer, t.replica.Expert, err)
}

func (t *transfer) failed(n placement.Node, err error) {
	if f := t.source.opts.Events.Failed; f != nil {
		f(t.replica, n.ID, err)
	}
}

// secondOpinion asks another node than the sender for the SHA-256 of its weights. Nodes that pack
// the same checkpoint have the same bytes, so a difference means that one of them is broken or
// lies. A node that does not answer has no say.
func (t *transfer) secondOpinion(ctx context.Context, sender placement.Node,
	nodes []placement.Node) error {
	if t.content != nil && t.by != sender.ID {
		return nil
	}
	t.content = nil
	for i := range nodes { // the ones after the sender first
		n := nodes[(slices.Index(nodes, sender)+1+i)%len(nodes)]
		if n.ID == sender.ID {
			continue
		}
		content, err := t.source.opinion(ctx, t.replica, n, t.partial.Size())
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			t.source.count(n.Address, err)
			continue
		}
		t.content, t.by = &content, n.ID
		return nil
	}
	return nil
}

// compare compares what the sender says of its weights with what the other node says.
func (t *transfer) compare(sender string, content [32]byte) error {
	if t.content == nil || *t.content == content {
		return nil
	}
	if f := t.source.opts.Events.Disagreed; f != nil {
		f(t.replica, [2]string{sender, t.by})
	}
	return errDisagree
}

// patiently fetches from a node that may be busy with others.
func (t *transfer) patiently(ctx context.Context, n placement.Node) error {
	for try := 1; ; try++ {
		err := t.fetchFrom(ctx, n)
		if status.Code(err) != codes.ResourceExhausted || try == busyTries {
			return err
		}
		select {
		case <-time.After(busyWait << try):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fetchFrom takes what is missing from one node. It accepts only what that node has for
// the same checkpoint digest, numeric mode and version of formats, which it compares
// itself; of the size that this node computes from its own configuration; chunk by chunk
// under their checksums; and in the end with the SHA-256 that the header announced.
func (t *transfer) fetchFrom(ctx context.Context, n placement.Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()
	stream, err := t.open(ctx, n)
	if err != nil {
		return because(ctx, err)
	}
	r, err := stream.Recv()
	if err != nil {
		return because(ctx, err)
	}
	h := r.GetHeader()
	if err := checkHeader(h, t.partial.Size()); err != nil {
		return err
	}
	if err := t.compare(n.ID, [32]byte(h.ContentSha256)); err != nil {
		return err
	}
	t.partial.Begin([32]byte(h.ContentSha256))
	t.began = t.partial.Have()
	if h.Offset != uint64(t.began) {
		return fmt.Errorf("%w: the node begins at %d, %d is next", packed.ErrCorrupt, h.Offset,
			t.began)
	}
	for wait := turn; ; wait = stall {
		watch.Reset(wait)
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return t.partial.Finish()
		}
		if err != nil {
			return because(ctx, err)
		}
		c := r.GetChunk()
		if c == nil {
			return fmt.Errorf("%w: a message without a chunk", packed.ErrCorrupt)
		}
		if err := t.partial.Append(int64(c.Offset), c.Weights, c.Crc32C); err != nil {
			return err
		}
	}
}

// checkHeader compares a header with what this node knows, the size of the weights.
func checkHeader(h *droverv1.FetchHeader, size int64) error {
	switch {
	case h == nil || len(h.ContentSha256) != 32:
		return fmt.Errorf("%w: the first message is no valid header", packed.ErrCorrupt)
	case h.Crc32C != expertnode.FetchHeaderSum(h):
		return fmt.Errorf("%w: the header does not match its checksum", packed.ErrCorrupt)
	case h.SizeBytes != uint64(size):
		return fmt.Errorf("%w: %d bytes are announced, must be %d", packed.ErrCorrupt,
			h.SizeBytes, size)
	}
	return nil
}

// open asks for what is missing.
func (t *transfer) open(ctx context.Context, n placement.Node) (
	grpc.ServerStreamingClient[droverv1.FetchResponse], error) {
	conn, err := t.source.conn(n.Address)
	if err != nil {
		return nil, err
	}
	r := t.source.request(t.replica, t.partial.Size())
	if content, ok := t.partial.Content(); ok {
		r.Offset, r.ContentSha256 = uint64(t.partial.Have()), content[:]
	}
	return droverv1.NewExpertServiceClient(conn).Fetch(ctx, r)
}

// conn returns the connection to an address. Its window is several chunks, but not so much
// that a sender's measurement of the link's rate would only measure memory.
func (s *Source) conn(address string) (*grpc.ClientConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[address]; c != nil {
		return c, nil
	}
	const window = 1 << 20
	c, err := grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(2 * window),
		grpc.WithReadBufferSize(256 << 10), grpc.WithDisableRetry(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: stall, Timeout: stall / 2}),
	}, s.opts.Dial...)...)
	if err == nil {
		s.conns[address] = c
	}
	return c, err
}
