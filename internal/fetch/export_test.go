package fetch

import (
	"context"

	"drover/kernel"
	"drover/packed"
	"drover/placement"
)

// FetchPiece fetches a piece of any shapes into a store, for tests with pieces that are
// larger than the demo model's experts.
func (s *Source) FetchPiece(ctx context.Context, store *packed.Store, shapes []kernel.Shape,
	from ...placement.Node) ([]*kernel.Matrix, error) {
	return store.Fetched("large", shapes, func(p *packed.Partial) error {
		t := transfer{source: s, replica: placement.Replica{Layer: 3, Expert: 7}, partial: p}
		return t.from(ctx, from)
	}, nil)
}
