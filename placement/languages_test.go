package placement

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// languageRows holds, for conversations in each language, the rows that each expert of the
// demo model's four MoE layers gets from its gate, a line for each layer.
// go test ./internal/bench -run ExpertLanguages -rewrite writes it.
//
//go:embed testdata/languages.rows
var languageRows string

// languages reads languageRows: by language, the load of each layer's experts.
func languages(t *testing.T) map[string][][]float64 {
	t.Helper()
	all, language := map[string][][]float64{}, ""
	for line := range strings.Lines(languageRows) {
		fields := strings.Fields(line)
		if len(fields) == 1 {
			language = fields[0]
			continue
		}
		var layer []float64
		for _, f := range fields {
			layer = append(layer, float64(number(f)))
		}
		all[language] = append(all[language], layer)
	}
	for name, load := range all {
		if len(load) != 4 || len(load[0]) != 128 {
			t.Fatalf("languages.rows has %d layers for %s", len(load), name)
		}
	}
	return all
}

// TestLanguages plans for the demo model's own routing: for each language from a plan for
// even loads, on few nodes and many.
// go test ./placement -run Languages -v prints the table of docs/placement.md.
func TestLanguages(t *testing.T) {
	all := languages(t)
	for _, nodes := range []int{4, 16, 64} {
		slots := 144
		if nodes == 64 {
			slots = 192
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			t.Run(fmt.Sprintf("nodes=%d/%s", nodes, name), func(t *testing.T) {
				compare(t, setting{4, 128, nodes, 2, slots}, all[name])
			})
		}
	}
}

// TestLanguageOfTheDay lets the language of all requests change every hour. The plan
// follows, in few steps.
func TestLanguageOfTheDay(t *testing.T) {
	all := languages(t)
	c := &trace{in: setting{4, 128, 16, 1, 144}.input()}
	names := slices.Sorted(maps.Keys(all))
	for hour := range 12 {
		name := names[hour%len(names)]
		load := mix(all[name], all[name], 0)
		scale(load, 1e4)
		c.changes, c.moved = 0, 0
		before := 0.0
		for i := range 120 {
			if i == 0 && hour > 0 {
				before = ratios(c.in.Current, load)
			}
			c.next(t, load)
		}
		after := ratios(c.in.Current, load)
		t.Logf("%s: %d changes, %d moved, fullest node %.2f -> %.2f", name, c.changes, c.moved, before, after)
		if c.changes > 8 {
			t.Errorf("%d changes for %s", c.changes, name)
		}
		if after > 1.17 {
			t.Errorf("an hour of %s leaves the fullest node at %.2f of the mean", name, after)
		}
	}
}
