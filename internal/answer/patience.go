package answer

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// AskPatiently is Ask for work that may wait: while the coordinator is full or away it tries
// again, six times over about six seconds. Trying again is safe, since a request changes nothing.
func AskPatiently(
	ctx context.Context, client droverv1.CoordinatorServiceClient, req *droverv1.GenerateRequest,
) (*Answer, error) {
	const tries = 7
	wait := 100 * time.Millisecond
	for try := 1; ; try++ {
		a, err := Ask(ctx, client, req)
		if try == tries || !MayComeBack(err) {
			return a, err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// MayComeBack says whether an error passes when the coordinator has room or is there again.
func MayComeBack(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.ResourceExhausted
}

// Reachable returns an error at once if no coordinator answers.
func Reachable(ctx context.Context, client droverv1.CoordinatorServiceClient) error {
	_, err := client.Describe(ctx, &droverv1.DescribeRequest{})
	if c := status.Code(err); c == codes.Unavailable || ctx.Err() != nil {
		return err
	}
	return nil
}
