package model

import (
	"errors"
	"fmt"

	"drover/checkpoint"
	"drover/kernel"
	"drover/moe"
)

// ErrUnsupported is wrapped by errors about checkpoints that are sound but of an
// architecture or a format that this build does not run.
var ErrUnsupported = errors.New("not supported")

// Options says how a checkpoint's weights are kept and where they are computed with.
type Options struct {
	// Mode is the numeric mode. It is required.
	Mode kernel.Mode
	// Device holds the weights and computes. Nil means the CPU, on the caller's
	// thread alone.
	Device kernel.Device
	// Store keeps packed weights from run to run. Nil means that they are packed in
	// memory every time.
	Store Store
	// Absent, if not nil, calls use with the bytes of a tensor, or of a slice of one, that the
	// checkpoint's directory lacks. They must not be used after use has returned.
	Absent func(t checkpoint.Tensor, use func(src []byte) error) error
	// Packed, if not nil, is called after each piece of weights that was loaded with the
	// size of its packed weights. Calls may overlap.
	Packed func(bytes int64)
}

// Store keeps packed weights.
type Store interface {
	// Matrices returns the matrices that were kept with a key, or new ones that build
	// has filled. The key names everything that the weights depend on.
	Matrices(key string, shapes []kernel.Shape, build func([]*kernel.Matrix) error) (
		[]*kernel.Matrix, error)
}

func (o *Options) setDefaults() {
	if o.Device == nil {
		o.Device = kernel.NewCPU(nil)
	}
}

// architecture is what Open knows about a model_type.
type architecture struct {
	spec    func(*checkpoint.Checkpoint, kernel.Mode) (Spec, error)
	open    func(*checkpoint.Checkpoint, Options, moe.Experts) (Model, error)
	experts func(*checkpoint.Checkpoint, Options) (moe.Source, error) // nil: dense
}

func find(ck *checkpoint.Checkpoint) (architecture, error) {
	kind := ck.Config().ModelType()
	if err := checkQuantised(ck); err != nil {
		return architecture{}, err
	}
	switch kind {
	case "llama4", "llama4_text":
		return architecture{llama4Spec, openLlama4, openLlama4Experts}, nil
	case "llama":
		return architecture{llamaSpec, openLlama, nil}, nil
	}
	return architecture{}, fmt.Errorf(
		"%s: config.json: model_type %q: %w; supported are llama4, llama4_text, llama",
		ck.Dir(), kind, ErrUnsupported)
}

// Describe reads a checkpoint's specification from its config.json and its tensors'
// headers, without reading weights.
func Describe(ck *checkpoint.Checkpoint, mode kernel.Mode) (Spec, error) {
	a, err := find(ck)
	if err != nil {
		return Spec{}, err
	}
	return a.spec(ck, mode)
}

// Open loads everything of a checkpoint but its routed experts, which are reached
// through experts; it may be nil for a dense model. Errors name the file and the
// field or tensor.
func Open(ck *checkpoint.Checkpoint, opts Options, experts moe.Experts) (Model, error) {
	opts.setDefaults()
	a, err := find(ck)
	if err != nil {
		return nil, err
	}
	return a.open(ck, opts, experts)
}

// OpenExperts gives access to a checkpoint's routed experts, one at a time. A dense
// model has a Source whose Spec lists no layers.
func OpenExperts(ck *checkpoint.Checkpoint, opts Options) (moe.Source, error) {
	opts.setDefaults()
	a, err := find(ck)
	if err != nil {
		return nil, err
	}
	if a.experts == nil {
		return noExperts{}, nil
	}
	return a.experts(ck, opts)
}

// noExperts is the Source of dense models.
type noExperts struct{}

func (noExperts) Spec() moe.Spec { return moe.Spec{} }

func (noExperts) Load(layer, expert int) (*moe.Expert, error) {
	return nil, fmt.Errorf("load expert %d.%d: the model has no routed experts", layer, expert)
}
