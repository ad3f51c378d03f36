// Package role puts the parts of the product together into the roles that a
// process can have: a coordinator, an expert node, or a model served in process.
package role

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/checkpoint"
	"drover/coordinator"
	"drover/internal/answer"
	"drover/kernel"
	"drover/kernel/cuda"
	"drover/model"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/tokenizer"
)

// Model is an opened checkpoint with what a role needs of it.
type Model struct {
	Checkpoint *checkpoint.Checkpoint
	Source     moe.Source
	Mode       kernel.Mode
	// Device computes; nil is the CPU, on the caller's thread alone.
	Device kernel.Device
	Digest [32]byte
	// digestFrom says who told the digest of a model without weights; else empty.
	digestFrom string
	// Spec describes the whole model.
	Spec model.Spec
	opts model.Options
}

// OpenModel opens the checkpoint in dir. Of its weights only the digest's samples are read.
func OpenModel(dir string, opts model.Options) (*Model, error) {
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	if ck.Hollow() {
		_ = ck.Close() // nothing is written; there is nothing to lose
		return nil, fmt.Errorf("%s: the files hold no weights, only their headers: download them; an"+
			" expert node does without, with --source peers", dir)
	}
	return describe(ck, opts)
}

// describe reads what a role needs of an open checkpoint, which it closes after an error.
func describe(ck *checkpoint.Checkpoint, opts model.Options) (m *Model, err error) {
	m = &Model{Checkpoint: ck, Mode: opts.Mode, Device: opts.Device, Digest: ck.Digest(), opts: opts}
	if m.Spec, err = model.Describe(ck, m.Mode); err == nil {
		m.Source, err = model.OpenExperts(ck, opts)
	}
	if err != nil {
		_ = ck.Close() // the first error says more
		return nil, err
	}
	return m, nil
}

// Name is the model's name: that of its directory.
func (m *Model) Name() string {
	dir, err := filepath.Abs(m.Checkpoint.Dir())
	if err != nil {
		dir = m.Checkpoint.Dir()
	}
	return filepath.Base(dir)
}

// FormText is the form of the checkpoint as it stands in the cluster's store.
func (m *Model) FormText() string {
	form := m.Checkpoint.Form()
	return hex.EncodeToString(form[:])
}

// DigestText is the model's identity as it stands in the cluster's store.
func (m *Model) DigestText() string { return hex.EncodeToString(m.Digest[:]) }

// Close gives the checkpoint back. What was loaded from it must be out of use.
func (m *Model) Close() error { return m.Checkpoint.Close() }

// sayHow tells the log what this process computes with.
func sayHow(log *slog.Logger, m *Model, threads int) {
	if a, ok := m.Device.(cuda.Accelerator); ok {
		about := []any{"kernel_class", m.class()}
		if r := a.Rounding(); r != 0 {
			about = append(about, "rounding", fmt.Sprintf("%08x", r))
		}
		log.Info("computing", about...)
		return
	}
	set := kernel.Instructions()
	log.Info("computing", "threads", max(threads, 1), "instructions", set)
	if set == "go" {
		log.Warn("this processor has no vector instructions that the kernels know (AVX2 with FMA and " +
			"F16C, or NEON): plain Go computes the same bytes, very slowly")
	}
}

// engine loads the model's own layers and starts the engine over experts.
func (m *Model) engine(experts moe.Experts, opts coordinator.Options) (
	*coordinator.Coordinator, error) {
	dir := m.Checkpoint.Dir()
	tok, err := tokenizer.Load(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		tok = nil // a checkpoint without a tokenizer serves token ids
	}
	if opts.Defaults, err = coordinator.ReadDefaults(dir); err != nil {
		return nil, err
	}
	loaded, err := model.Open(m.Checkpoint, m.opts, experts)
	if err != nil {
		return nil, err
	}
	opts.Name, opts.ModelDigest = m.Name(), m.Digest[:]
	opts.NumericMode = m.Mode.String()
	if opts.KernelClass == "" {
		opts.KernelClass = m.class()
	}
	return coordinator.New(loaded, tok, opts)
}

// canary sends one token through every layer, so that ready means ready. That the
// coordinator is full of other requests counts as ready.
func canary(ctx context.Context, c droverv1.CoordinatorServiceClient, token int32) error {
	_, err := answer.Ask(ctx, c, &droverv1.GenerateRequest{
		Prompt:    &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: []int32{token}}},
		MaxTokens: 1, IgnoreEos: true,
	})
	if err != nil && status.Code(err) != codes.ResourceExhausted {
		return fmt.Errorf("canary token: %w", err)
	}
	return nil
}
