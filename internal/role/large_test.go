package role

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/coordinator"
	"drover/internal/answer"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// TestLargeRequest asks for too much over gRPC: as long as it is not far too much, it is told
// that it should not be asked again.
func TestLargeRequest(t *testing.T) {
	conn, stop, err := InProcess(t.Context(), demo, InProcessOptions{Mode: kernel.BF16})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	client := droverv1.NewCoordinatorServiceClient(conn)
	for size, want := range map[int]codes.Code{
		coordinator.MaxRequestBytes:        codes.InvalidArgument,
		2*coordinator.MaxRequestBytes - 64: codes.InvalidArgument,
		2 * coordinator.MaxRequestBytes:    codes.ResourceExhausted,
	} {
		_, err := answer.Ask(t.Context(), client, &droverv1.GenerateRequest{
			Prompt: &droverv1.GenerateRequest_Text{Text: strings.Repeat("a", size)}})
		if status.Code(err) != want || !strings.Contains(err.Error(), "larger than") &&
			!strings.Contains(err.Error(), "too large") {
			t.Errorf("%d bytes: %v, want %v for its size", size, err, want)
		}
	}
}
