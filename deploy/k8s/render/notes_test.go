package render

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// TestNotes reads what helm install prints: what it has people ask is JSON, and names no model,
// since a coordinator refuses every name but that of the model's folder.
func TestNotes(t *testing.T) {
	body := regexp.MustCompile(`-d '([^']*)'`)
	for name, v := range sets {
		files, err := newRelease(t).templates(v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		asked := 0
		for file, text := range files {
			if !strings.HasSuffix(file, "NOTES.txt") {
				continue
			}
			for _, m := range body.FindAllStringSubmatch(text, -1) {
				var request map[string]any
				asked++
				if err := json.Unmarshal([]byte(m[1]), &request); err != nil {
					t.Errorf("%s: %s: %v", name, m[1], err)
				}
				if model, ok := request["model"]; ok || request["messages"] == nil {
					t.Errorf("%s: model %v is asked, messages %v", name, model, request["messages"])
				}
			}
		}
		if asked != 1 {
			t.Errorf("%s: %d questions in the notes, want 1", name, asked)
		}
	}
}
