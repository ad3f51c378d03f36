package inspect

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"drover/internal/show"
)

// Text is the report for people, with a newline at its end.
func (r Report) Text() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("directory", "%s", filepath.Clean(r.Directory))
	row("architecture", "%s", r.Architecture)
	if r.Unsupported != "" {
		row("not supported", "%s", r.Unsupported)
	}
	if r.Digest == "" {
		row("digest", "none: the files hold no weights, only their headers")
	} else {
		row("digest", "%s", r.Digest)
	}
	row("form", "%s, whatever the weights", r.Form)
	p := r.Parameters
	row("parameters", "%s, of which %s in routed experts and %s in vision; %s active for a token",
		millions(p.Total), millions(p.RoutedExperts), millions(p.Vision), millions(p.Active))
	var types []string
	for _, name := range slices.Sorted(maps.Keys(r.DTypes)) {
		d := r.DTypes[name]
		types = append(types, fmt.Sprintf("%s %s in %d tensors", name, size(d.Bytes), d.Tensors))
	}
	row("weights", "%s: %s", size(r.WeightBytes), strings.Join(types, ", "))
	row("tokenizer", "%s", r.Tokenizer)
	row("chat template", "%s", map[bool]string{true: "yes", false: "no"}[r.ChatTemplate])
	if m := r.Model; m != nil {
		row("layers", "%d of width %d, MoE in %d: %v", m.Layers, m.Hidden, len(m.MoELayers),
			m.MoELayers)
		row("experts", "%d in each MoE layer, %d for a token, width %d",
			m.ExpertsPerLayer, m.ExpertsPerToken, m.ExpertWidth)
		row("vocabulary", "%d", m.Vocabulary)
		row("context", "%d tokens", m.ContextTokens)
	}
	if m := r.Memory; m != nil {
		row("mode", "%s", m.Mode)
		row("coordinator", "%s, and %s for each token of context",
			size(m.CoordinatorBytes), size(m.KVBytesPerToken))
		row("one expert", "%s", size(m.ReplicaBytes))
		row("network", "%s for each token, both ways together", size(m.WireBytesPerToken))
		for _, n := range m.Nodes {
			row(fmt.Sprintf("node of %d", n.Nodes), "%s in %d replicas", size(n.Bytes), n.Replicas)
		}
	}
	return b.String()
}

func size(n int64) string { return show.Bytes(uint64(n)) }

func millions(n int64) string {
	if n >= 10_000_000_000 {
		return fmt.Sprintf("%.2f G", float64(n)/1e9)
	}
	return fmt.Sprintf("%.2f M", float64(n)/1e6)
}
