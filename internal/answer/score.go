package answer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	droverv1 "drover/proto/drover/v1"
)

// Scored is what the model says of one position.
type Scored struct {
	// Logits are those of the token that follows.
	Logits []float32
	// Layers are the experts that each MoE layer chose, if they were asked for.
	Layers []*droverv1.LayerExperts
}

// Score runs the model over ids; the answer has one entry for each.
func Score(
	ctx context.Context, client droverv1.CoordinatorServiceClient, ids []int32, experts bool,
) ([]Scored, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream on every way out
	stream, err := client.Score(ctx, &droverv1.ScoreRequest{TokenIds: ids, WithExperts: experts})
	if err != nil {
		return nil, err
	}
	var all []Scored
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if int(r.Position) != len(all) || len(all) == len(ids) {
			return nil, fmt.Errorf("score: position %d came as number %d of %d",
				r.Position, len(all), len(ids))
		}
		all = append(all, Scored{floats(r.Logits), r.Layers})
	}
	if len(all) != len(ids) {
		return nil, fmt.Errorf("score: %d of %d positions came", len(all), len(ids))
	}
	return all, nil
}

// floats reads little-endian float32 values.
func floats(b []byte) []float32 {
	f := make([]float32, len(b)/4)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return f
}
