package load

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// Record is what became of one request.
type Record struct {
	// Question is its place among the questions.
	Question int
	// Due is when it should have been sent, Sent when it was, Ended when its stream ended.
	Due, Sent, Ended time.Time
	// Deltas are the messages that brought tokens, in order.
	Deltas []Delta
	// Tokens are those of the answer, up to an error if there is one.
	Tokens []int32
	// Answer is a hash of tokens, text and the reason of the end; zero with an error.
	Answer [sha256.Size]byte
	// Err is why there is no whole answer.
	Err error
}

// Delta is one message with tokens.
type Delta struct {
	At     time.Time
	Tokens int
}

// FirstToken is the time from when the request was due to its first token; an answer without
// tokens counts by its end.
func (r *Record) FirstToken() time.Duration {
	if len(r.Deltas) == 0 {
		return r.Ended.Sub(r.Due)
	}
	return r.Deltas[0].At.Sub(r.Due)
}

// PerToken is TPOT, the mean time for each token after the first; ok is false if there is none.
func (r *Record) PerToken() (each time.Duration, ok bool) {
	if len(r.Tokens) < 2 {
		return 0, false
	}
	first, last := r.Deltas[0].At, r.Deltas[len(r.Deltas)-1].At
	return last.Sub(first) / time.Duration(len(r.Tokens)-1), true
}

// Gaps calls each with every inter-token gap. Tokens that one message brought came at once: the
// first of them has the gap to the message before, the others have none.
func (r *Record) Gaps(each func(from, to time.Time)) {
	for i, d := range r.Deltas {
		if i > 0 {
			each(r.Deltas[i-1].At, d.At)
		}
		for range d.Tokens - 1 {
			each(d.At, d.At)
		}
	}
}

// Ask asks one question, which was due at some moment, and takes the times of its tokens.
func Ask(
	ctx context.Context, client droverv1.CoordinatorServiceClient,
	req *droverv1.GenerateRequest, due time.Time,
) Record {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream on every way out
	r := Record{Due: due, Sent: time.Now()}
	r.Err = r.stream(ctx, client, req)
	r.Ended = time.Now()
	return r
}

// stream reads the answer to its end.
func (r *Record) stream(
	ctx context.Context, client droverv1.CoordinatorServiceClient, req *droverv1.GenerateRequest,
) error {
	stream, err := client.Generate(ctx, req)
	if err != nil {
		return err
	}
	var text []byte
	var end *droverv1.Finished
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && end == nil:
			return status.Error(codes.Unavailable, "the answer broke off")
		case errors.Is(err, io.EOF):
			r.Answer = hash(r.Tokens, text, end)
			return nil
		case err != nil:
			return err
		}
		if d := m.GetDelta(); d != nil {
			text = append(text, d.Text...)
			if n := len(d.TokenIds); n > 0 {
				r.Tokens = append(r.Tokens, d.TokenIds...)
				r.Deltas = append(r.Deltas, Delta{time.Now(), n})
			}
		}
		if f := m.GetFinished(); f != nil {
			end = f
		}
	}
}

// Code is the gRPC code of a record's error; a time that ran out is one, too.
func Code(err error) codes.Code {
	if errors.Is(err, context.DeadlineExceeded) {
		return codes.DeadlineExceeded
	}
	return status.Code(err)
}

// hash is of all that may not differ between two answers to one question.
func hash(tokens []int32, text []byte, end *droverv1.Finished) [sha256.Size]byte {
	b := binary.AppendUvarint(nil, uint64(len(tokens)))
	for _, id := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	b = binary.AppendUvarint(b, uint64(len(text)))
	b = append(b, text...)
	b = binary.AppendUvarint(b, uint64(end.Reason))
	return sha256.Sum256(append(b, end.Stop...))
}
