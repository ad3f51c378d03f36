package jinja

import (
	"encoding/json"
	"testing"
	"time"
)

// TestJinja2 compares with what Jinja2 3.1.6 prints in the setting of Transformers 5: the
// immutable sandbox, trim_blocks, lstrip_blocks, loop controls. testdata/jinja2.json holds its
// answers; where it ended with an error, we must too, in words of our own.
func TestJinja2(t *testing.T) {
	var table struct {
		Now       string          `json:"now"`
		Variables json.RawMessage `json:"variables"`
		Cases     []struct {
			Group    string  `json:"group"`
			Template string  `json:"template"`
			Text     *string `json:"text"`
			Error    string  `json:"error"`
		} `json:"cases"`
	}
	readJSON(t, "testdata/jinja2.json", &table)
	now, err := time.Parse("2006-01-02T15:04:05", table.Now)
	if err != nil {
		t.Fatal(err)
	}
	vars := mustJSON(t, table.Variables).(*Dict)
	vars.Set("tools", None())
	groups := map[string]int{}
	for _, c := range table.Cases {
		groups[c.Group]++
		var spans []Span
		tmpl, err := Parse(c.Group, c.Template)
		if err == nil {
			spans, err = tmpl.Render(t.Context(), vars, nil, Options{Now: now})
		}
		got := join(spans)
		switch {
		case c.Text == nil && err == nil:
			t.Errorf("%s: %s\ngot  %q\nwant error %s", c.Group, c.Template, got, c.Error)
		case c.Text != nil && err != nil:
			t.Errorf("%s: %s\ngot  error %v\nwant %q", c.Group, c.Template, err, *c.Text)
		case c.Text != nil && got != *c.Text:
			t.Errorf("%s: %s\ngot  %q\nwant %q", c.Group, c.Template, got, *c.Text)
		}
	}
	if len(table.Cases) < 1000 || len(groups) < 12 {
		t.Errorf("got %d cases in %d groups, want 1000 in 12", len(table.Cases), len(groups))
	}
}
