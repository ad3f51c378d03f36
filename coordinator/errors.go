package coordinator

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"drover/moe"
	"drover/scheduler"
)

// ErrClosed says that the coordinator is closing.
var ErrClosed = errors.New("coordinator: closing")

// errStepStopped is a step that ended before its time.
var errStepStopped = errors.New("the step was stopped")

// fieldError is a request's field that cannot be accepted.
type fieldError struct {
	field, problem string
}

func (e *fieldError) Error() string { return e.field + ": " + e.problem }

func badField(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// preconditionError is a request that this model or its options rule out.
type preconditionError struct{ problem string }

func (e *preconditionError) Error() string { return e.problem }

// MaxRequestBytes bounds a request, over gRPC and over HTTP: about the text of a million tokens.
// A byte of it takes some ten in memory until it has become tokens.
const MaxRequestBytes = 4 << 20

// checkSize refuses a request that is too large. It is not worth trying again.
func checkSize(req proto.Message) error {
	if n := proto.Size(req); n > MaxRequestBytes {
		return status.Errorf(codes.InvalidArgument, "the request is too large: it has %d bytes, at most"+
			" %d (%d MiB) are taken; shorten the prompt", n, MaxRequestBytes, MaxRequestBytes>>20)
	}
	return nil
}

// errScoreForbidden refuses Score.
var errScoreForbidden = errors.New("score is not allowed here; enable it on the coordinator")

// logitsError is a row of logits that no token can be chosen from.
type logitsError struct {
	position, token int
	value           float32
}

func (e *logitsError) Error() string {
	return fmt.Sprintf("non-finite logits at position %d: token %d has %v",
		e.position, e.token, e.value)
}

// panicError is a panic of the engine's step.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// toStatus maps an error to what the client gets. A code decides whether to retry:
// UNAVAILABLE may go better next time, RESOURCE_EXHAUSTED later, ABORTED elsewhere; the
// others not.
func toStatus(err error) error {
	var field *fieldError
	var pre *preconditionError
	var crash *panicError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &field):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.As(err, &pre):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.As(err, &crash):
		return status.Error(codes.Internal, "internal error in the engine; see the coordinator's log")
	case errors.Is(err, errOtherBytes):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, errScoreForbidden):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, scheduler.ErrFull):
		return status.Error(codes.ResourceExhausted,
			"too many requests are running and waiting; retry later")
	case errors.Is(err, moe.ErrUnavailable), errors.Is(err, errStepStopped), errors.Is(err, ErrClosed):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// stepError is the error of a step as the step's requests see it. Their own contexts had
// no part in it, so a context's error inside is the engine's: closing, or out of time.
func stepError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ErrClosed
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %v", errStepStopped, err)
	}
	return err
}
