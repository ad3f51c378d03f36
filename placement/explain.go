package placement

import (
	"fmt"
	"slices"
	"strings"
)

// plan returns what is on the board. Experts that are stranded stay where they were.
func (b *board) plan() *Plan {
	p := &Plan{Revision: 1, Layers: slices.Clone(b.in.Layers), Experts: b.in.Experts}
	if b.in.Current != nil {
		p.Revision = b.in.Current.Revision + 1
	}
	used := map[string]bool{}
	for n, count := range b.count {
		if count > 0 {
			used[b.nodes[n].ID] = true
		}
	}
	for _, r := range b.stranded {
		for _, o := range b.in.Current.On(b.in.Layers[r.Layer], r.Expert) {
			used[b.in.Current.NodeIDs[o]] = true
		}
	}
	for id := range used {
		p.NodeIDs = append(p.NodeIDs, id)
	}
	slices.Sort(p.NodeIDs)
	index := make([]uint16, len(b.nodes))
	for n := range b.nodes {
		index[n], _ = p.Index(b.nodes[n].ID)
	}
	p.Replicas = make([][][]uint16, len(b.on))
	for l := range b.on {
		p.Replicas[l] = make([][]uint16, len(b.on[l]))
		for e, on := range b.on[l] {
			at := make([]uint16, len(on))
			for i, n := range on {
				at[i] = index[n]
			}
			slices.Sort(at)
			p.Replicas[l][e] = at
		}
	}
	for _, r := range b.stranded {
		for _, o := range b.in.Current.On(b.in.Layers[r.Layer], r.Expert) {
			i, _ := p.Index(b.in.Current.NodeIDs[o])
			p.Replicas[r.Layer][r.Expert] = append(p.Replicas[r.Layer][r.Expert], i)
		}
	}
	return p
}

// explain says what the plan p of the board changes.
func (b *board) explain(p *Plan) Explanation {
	add, drop := Diff(b.in.Current, p)
	why := Explanation{
		Replicas: b.replicas, Added: len(add), Dropped: len(drop),
		AddedBytes: int64(len(add)) * b.in.ReplicaBytes,
		Imbalance:  b.imbalance(), Before: b.before,
		Stranded: len(b.stranded), Missed: b.missed,
	}
	// Where nothing changes, the next plan would find the same.
	why.Deferred = (b.deferred || len(b.stranded) > 0) && len(add)+len(drop) > 0
	if b.replicas == b.in.Replicas {
		for l := range b.on {
			for _, on := range b.on[l] {
				why.Extra += max(len(on)-b.replicas, 0)
			}
		}
	}
	why.Notes = b.notes()
	if why.Deferred {
		why.Notes = append(why.Notes, "more moves wait for the next plan")
	}
	return why
}

func (b *board) notes() []string {
	var notes []string
	note := func(n int, format string, args ...any) {
		if n > 0 {
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	why := "room"
	if len(b.nodes) < b.in.Replicas {
		why = "nodes"
	}
	note(b.in.Replicas-b.replicas, "%s for %d of the %d wanted replicas of each expert",
		why, b.replicas, b.in.Replicas)
	small := len(b.in.Nodes) - len(b.nodes) - b.draining
	note(small, "nodes too small for one replica: %d", small)
	together := 0
	for l := range b.on {
		for e, on := range b.on[l] {
			if slices.ContainsFunc(on, func(n uint16) bool { return b.sharesDomain(l, e, n) }) {
				together++
			}
		}
	}
	note(together, "experts with replicas in one failure domain: %d", together)
	note(len(b.stranded), "experts without a live replica that wait until others are dropped: %d",
		len(b.stranded))
	if b.missed > 0 {
		notes = append(notes, fmt.Sprintf("a layer of imbalance %.2f stays as it is: no moves would"+
			" gain %.0f %%", b.missed, 100*b.in.MinGain))
	}
	return notes
}

// String returns the explanation as one line.
func (e Explanation) String() string {
	extra := ""
	if e.Extra > 0 {
		extra = fmt.Sprintf(" and %d extra", e.Extra)
	}
	s := fmt.Sprintf("replicas %d%s, added %d (%d bytes), dropped %d, imbalance %.2f",
		e.Replicas, extra, e.Added, e.AddedBytes, e.Dropped, e.Imbalance)
	return strings.Join(append([]string{s}, e.Notes...), "; ")
}
