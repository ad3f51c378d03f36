package fetch

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/packed"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// opinion is what one node says of the weights of one replica, which another one sends. It is
// there when known is closed. Nodes are asked for many at a time: small experts are many, and a
// call for each would cost more than the weights.
type opinion struct {
	known   chan struct{}
	content [32]byte
	err     error
}

// opinionOf names a replica and the node that is asked.
type opinionOf struct {
	replica placement.Replica
	address string
}

const (
	// askTogether bounds the replicas of one call, askBytes the weights that a node may have to
	// hash for it.
	askTogether = 64
	askBytes    = 256 << 20
)

// errNoOpinion says that the node does not hold the replica.
var errNoOpinion = status.Error(codes.NotFound, "the node does not hold it")

// opinion asks a node for the SHA-256 of a replica of a size, and with it for those of the
// replicas for which it will be asked next.
func (s *Source) opinion(ctx context.Context, r placement.Replica, n placement.Node,
	size int64) ([32]byte, error) {
	s.mu.Lock()
	o := s.opinions[opinionOf{r, n.Address}]
	if o == nil {
		ask := s.askNext(r, n, size)
		o = s.opinions[opinionOf{r, n.Address}]
		go s.ask(ctx, n.Address, ask, size)
	}
	s.mu.Unlock()
	select {
	case <-o.known:
		return o.content, o.err
	case <-ctx.Done():
		return [32]byte{}, context.Cause(ctx)
	}
}

// asked is an opinion that is asked for.
type asked struct {
	*opinion
	replica placement.Replica
}

// askNext makes the opinions of one call, r's and then those for which the node is the first to
// be asked, in the order of replicas. The caller holds s.mu.
func (s *Source) askNext(r placement.Replica, n placement.Node, size int64) []asked {
	var ask []asked
	add := func(r placement.Replica) {
		o := &opinion{known: make(chan struct{})}
		s.opinions[opinionOf{r, n.Address}] = o
		ask = append(ask, asked{o, r})
	}
	add(r)
	most := min(askTogether, max(1, int(askBytes/size)))
	next := s.judged(n.Address)
	at, _ := slices.BinarySearchFunc(next, r, placement.Replica.Compare)
	for i := range next { // round, since several replicas are loaded at a time
		if len(ask) == most {
			break
		}
		r := next[(at+i)%len(next)]
		if s.opinions[opinionOf{r, n.Address}] == nil && s.alive(r) == nil {
			add(r)
		}
	}
	return ask
}

// judged lists the replicas of which the node at an address is asked first, in order. The caller
// holds s.mu.
func (s *Source) judged(address string) []placement.Replica {
	if s.judges == nil {
		s.judges = map[string][]placement.Replica{}
		for r := range s.holders {
			if nodes := s.ranked(r); len(nodes) > 1 {
				s.judges[nodes[1].Address] = append(s.judges[nodes[1].Address], r)
			}
		}
		for _, replicas := range s.judges {
			slices.SortFunc(replicas, placement.Replica.Compare)
		}
	}
	return s.judges[address]
}

// ask asks the node at an address for opinions.
func (s *Source) ask(ctx context.Context, address string, ask []asked, size int64) {
	done := 0
	err := s.headers(ctx, address, ask, size, func(h *droverv1.FetchHeader) {
		o := ask[done]
		if o.err = checkHeader(h, size); o.err == nil {
			o.content = [32]byte(h.ContentSha256)
		} else if h.GetSizeBytes() == 0 && done > 0 {
			o.err = errNoOpinion
		}
		done++
		close(o.known)
	})
	if done == len(ask) {
		return
	}
	if errors.Is(err, io.EOF) && done > 0 {
		err = errNoOpinion // it does not know that more can be asked for
	}
	s.mu.Lock() // as a rule nobody waits for the others yet: they will be asked for again
	defer s.mu.Unlock()
	for _, o := range ask[done:] {
		o.err = err
		if of := (opinionOf{o.replica, address}); s.opinions[of] == o.opinion {
			delete(s.opinions, of)
		}
		close(o.known)
	}
}

// headers calls use with the headers that a node sends for what it is asked, in order.
func (s *Source) headers(ctx context.Context, address string, ask []asked, size int64,
	use func(*droverv1.FetchHeader)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()
	conn, err := s.conn(address)
	if err != nil {
		return err
	}
	request := s.request(ask[0].replica, size)
	request.HeaderOnly = true
	for _, o := range ask[1:] {
		request.Further = append(request.Further, &droverv1.FetchReplica{
			Layer: uint32(o.replica.Layer), Expert: uint32(o.replica.Expert)})
	}
	stream, err := droverv1.NewExpertServiceClient(conn).Fetch(ctx, request)
	if err != nil {
		return because(ctx, err)
	}
	for range ask {
		r, err := stream.Recv()
		if err != nil {
			return because(ctx, err)
		}
		watch.Reset(stall)
		use(r.GetHeader())
	}
	return nil
}

// request asks for a replica's weights.
func (s *Source) request(r placement.Replica, size int64) *droverv1.FetchRequest {
	digest := s.opts.Checkpoint.Digest()
	return &droverv1.FetchRequest{ModelDigest: digest[:], NumericMode: s.opts.Model.Mode.String(),
		FormatVersion: packed.Version, Layer: uint32(r.Layer), Expert: uint32(r.Expert),
		SizeBytes: uint64(size)}
}

// because prefers the reason for which we gave up to what gRPC made of it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
