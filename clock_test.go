package drover_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wallClock are the files that may read the wall clock, and what for. Nothing else may, so that a
// clock that jumps changes no decision: times are compared by Go's monotonic reading, and what
// goes over a wire or into a file is a duration or a number.
var wallClock = map[string]string{
	"api/answer.go":               "shown to clients",
	"internal/access/keys.go":     "dates until which keys hold, from a file",
	"api/api.go":                  "shown to clients",
	"tokenizer/jinja/strftime.go": "the date in a chat template",
	"internal/verify/template.go": "the date in a chat template, from a file",
	// An epoch must be larger than those of the node's earlier lives. One that is smaller is
	// refused until the earlier lease has ended: see the tests named Clock.
	"internal/role/gossip.go": "epochs",
	// Certificates end on a date; nothing is decided by it there.
	"internal/metrics/certificates.go": "shown to who watches",
	"cluster/member.go":                "epochs",
}

// TestWallClock finds what loses or lacks the monotonic reading of a time.
func TestWallClock(t *testing.T) {
	methods := []string{"Unix", "UnixNano", "UnixMilli", "UnixMicro", "ModTime"}
	functions := []string{"Unix", "UnixMilli", "UnixMicro", "Date", "Parse", "ParseInLocation"}
	read := map[string]bool{}
	sources(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") ||
			strings.HasPrefix(filepath.ToSlash(path), "scripts/") {
			return
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.ToSlash(path)
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of, _ := s.X.(*ast.Ident)
			fromTime := of != nil && of.Name == "time"
			zero := len(call.Args) == 1
			if zero {
				l, ok := call.Args[0].(*ast.BasicLit)
				zero = ok && l.Value == "0" && s.Sel.Name == "Round"
			}
			if zero || fromTime && slices.Contains(functions, s.Sel.Name) ||
				!fromTime && len(call.Args) == 0 && slices.Contains(methods, s.Sel.Name) {
				read[path] = true
				if wallClock[path] == "" {
					t.Errorf("%s: %s is of the wall clock, which jumps", set.Position(call.Pos()), s.Sel.Name)
				}
			}
			return true
		})
	})
	for path := range wallClock {
		if !read[path] {
			t.Errorf("%s does not read the wall clock any more: take it off the list", path)
		}
	}
}
