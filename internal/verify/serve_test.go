package verify

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"drover/checkpoint"
	"drover/coordinator"
	"drover/expertnode"
	"drover/internal/batch/batchtest"
	"drover/kernel"
	"drover/model"
	droverv1 "drover/proto/drover/v1"
	"drover/tokenizer"
)

// serve is an Opener of the real thing, without a network.
func serve(t *testing.T) Opener {
	return func(ctx context.Context, dir, mode string) (
		droverv1.CoordinatorServiceClient, func() error, error,
	) {
		c, ck, err := load(ctx, dir, mode)
		if err != nil {
			return nil, nil, err
		}
		closeModel := func() error {
			c.Close()
			return ck.Close()
		}
		return droverv1.NewCoordinatorServiceClient(batchtest.Serve(t, c)), closeModel, nil
	}
}

func load(ctx context.Context, dir, mode string) (
	*coordinator.Coordinator, *checkpoint.Checkpoint, error,
) {
	m, err := kernel.ParseMode(mode)
	if err != nil {
		return nil, nil, err
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	source, err := model.OpenExperts(ck, m)
	if err != nil {
		return nil, nil, err
	}
	host := expertnode.NewHost(source, m, expertnode.HostOptions{})
	if err := host.LoadAll(ctx); err != nil {
		return nil, nil, err
	}
	loaded, err := model.Open(ck, m, host)
	if err != nil {
		return nil, nil, err
	}
	tok, err := tokenizer.Load(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	c, err := coordinator.New(loaded, tok, coordinator.Options{
		Name: "test", AllowScore: true, KVBytes: 64 << 20,
	})
	return c, ck, err
}
