package role

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"drover/checkpoint"
	"drover/cluster"
	"drover/internal/fetch"
	"drover/model"
)

// learnWithin bounds how long a node without weights waits for a coordinator that says which
// weights the cluster serves: long enough for a coordinator that is started with the nodes.
const learnWithin = 10 * time.Minute

// openModel opens the node's model. A node that takes all weights from other nodes needs none
// of its own; it cannot compute their digest, so it is told.
func (o *ExpertNodeOptions) openModel(ctx context.Context, how model.Options) (*Model, error) {
	if o.From != fetch.Nodes {
		return OpenModel(o.ModelDir, how)
	}
	from := ""
	ck, err := checkpoint.OpenHeaders(o.ModelDir, func(form [32]byte) (d [32]byte, err error) {
		text := o.ModelDigest
		if text != "" {
			from = "the operator"
		} else if text, from, err = o.learn(ctx, hex.EncodeToString(form[:])); err != nil {
			return d, err
		}
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(d) {
			return d, fmt.Errorf("model digest %q, of %s: want %d hexadecimal digits",
				text, from, 2*len(d))
		}
		return [32]byte(b), nil
	})
	if err != nil {
		return nil, err
	}
	m, err := describe(ck, how)
	if err != nil {
		return nil, err
	}
	m.digestFrom = from
	o.Log.Info("the model's digest was not computed from weights but told", "digest", m.DigestText(),
		"by", from)
	return m, nil
}

// learn asks the cluster which weights of the model with a form it serves.
func (o *ExpertNodeOptions) learn(ctx context.Context, form string) (
	digest, from string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, learnWithin, fmt.Errorf("none within %v: start a"+
		" coordinator, or name the weights with --model-digest", learnWithin))
	defer cancel()
	digest, from, err = cluster.LearnModel(ctx, o.Store, o.ClusterName, form, func() {
		o.Log.Info("waiting for a coordinator that says which weights it serves", "form", form)
	})
	if err != nil {
		return "", "", fmt.Errorf("%w (--model-digest chooses)", err)
	}
	return digest, "coordinator " + from, nil
}
