package bench

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"drover/internal/testcluster"
)

// TestExpertLanguages counts the rows that each expert of the demo model's layers has from
// conversations in each language, and compares them with what package placement plans for
// in its tests. With -rewrite it writes that file: go test ./internal/bench -run
// ExpertLanguages -rewrite.
func TestExpertLanguages(t *testing.T) {
	const conversations = 150
	file := testcluster.Path("placement/testdata/languages.rows")
	if testing.Short() {
		t.Skip("runs 150 conversations")
	}
	byLanguage := map[string]rowCounts{}
	for _, c := range trace(t, 1, conversations) {
		if byLanguage[c.language] == nil {
			byLanguage[c.language] = counts(len(c.experts[0]))
		}
		byLanguage[c.language].add(c.experts)
	}
	text := ""
	for _, language := range slices.Sorted(maps.Keys(byLanguage)) {
		text += fmt.Sprintf("%s\n%s", language, byLanguage[language].text())
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s is not what the model does; -rewrite writes\n%s", file, text)
	}
}
