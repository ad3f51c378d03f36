package drover_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// layers is the import graph of the module, lowest line first: a package may import
// the packages named on its line and no other package of the module. If this test
// fails, change your code; widening a line is a design change and its commit says why.
const layers = `
tensor:
scheduler:
placement:
tokenizer/jinja:
proto/drover/v1:
internal/term:
internal/measure:
cluster/etcdserver:
kernel: tensor
kernel/devicetest: kernel tensor
kernel/cuda: kernel tensor
kernel/cuda/standin:
checkpoint: tensor
packed: kernel
wire: tensor
tokenizer: tokenizer/jinja
moe: kernel tensor
model: checkpoint kernel moe tensor
cluster: placement proto/drover/v1
router: internal/measure kernel moe placement proto/drover/v1 tensor wire
expertnode: internal/measure kernel moe proto/drover/v1 tensor wire
coordinator: internal/measure kernel model moe proto/drover/v1 scheduler tensor tokenizer tokenizer/jinja
api: proto/drover/v1
client: proto/drover/v1
scripts/kernelgen:
scripts/kube/labtool:
scripts/mkimage: checkpoint
`

// tops may import anything: they wire the parts together.
var tops = []string{"cmd/", "internal/"}

// banned lists what a pure package must not import from outside the module.
var banned = map[string][]string{
	"tensor":          {"net", "os", "time", "log", "log/slog", "sync"},
	"kernel":          {"net", "os", "time", "log", "log/slog"},
	"moe":             {"net", "os", "time", "log", "log/slog", "sync"},
	"scheduler":       {"net", "os", "time", "log", "log/slog", "sync", "math/rand", "math/rand/v2"},
	"placement":       {"net", "os", "time", "log", "log/slog", "sync", "math/rand", "math/rand/v2"},
	"tokenizer/jinja": {"net", "os", "log", "log/slog", "reflect"},
	"router":          {"go.etcd.io/", "github.com/hashicorp/memberlist", "log", "log/slog"},
	"expertnode":      {"go.etcd.io/", "github.com/hashicorp/memberlist", "log", "log/slog"},
	"coordinator":     {"go.etcd.io/", "github.com/hashicorp/memberlist", "log", "log/slog"},
	"api":             {"go.etcd.io/", "github.com/hashicorp/memberlist"},
	"client":          {"go.etcd.io/", "github.com/hashicorp/memberlist", "log", "log/slog"},
}

// directModules are the modules that go.mod may require directly. A new one is a
// design change: its commit says what it saves, what it pulls in, who maintains it.
var directModules = []string{
	"github.com/anishathalye/porcupine", // tests only
	"github.com/dlclark/regexp2/v2",
	"github.com/ebitengine/purego", // builds with -tags cuda only
	"github.com/hashicorp/memberlist",
	"github.com/prometheus/client_golang",
	"github.com/rogpeppe/go-internal",
	"github.com/spf13/cobra",
	"go.etcd.io/etcd/api/v3",
	"go.etcd.io/etcd/client/v3",
	"go.etcd.io/etcd/etcdutl/v3", // its snapshot package: a backup becomes a member's folder
	"go.etcd.io/etcd/server/v3",
	"go.uber.org/goleak",
	"go.uber.org/zap",
	"golang.org/x/sys",
	"golang.org/x/term",
	"golang.org/x/text",
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
	"pgregory.net/rapid",
}

// Budgets of style: the largest file, function, parameter list and line. A tab counts
// as one character.
const (
	maxFileLines     = 600
	maxFunctionLines = 70
	maxParameters    = 6
	maxCharacters    = 100
)

type listed struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestLayers(t *testing.T) {
	allowed := map[string][]string{}
	for line := range strings.Lines(strings.TrimSpace(layers)) {
		name, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, i := range strings.Fields(imports) {
			if _, ok := allowed[i]; !ok {
				t.Errorf("%s imports %s, which stands on a later line", name, i)
			}
		}
		allowed[name] = strings.Fields(imports)
	}
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, "drover/")
		if name == "drover" {
			continue // this test
		}
		top := slices.ContainsFunc(tops, func(s string) bool { return strings.HasPrefix(name, s) })
		can, known := allowed[name]
		if !known && !top {
			t.Errorf("package %s is not in the table of layers", name)
		}
		for _, i := range p.Imports {
			inside, isOurs := strings.CutPrefix(i, "drover/")
			if isOurs && known && !slices.Contains(can, inside) {
				t.Errorf("%s must not import %s", name, inside)
			}
			if isOurs && strings.HasPrefix(inside, "cmd/") {
				t.Errorf("%s imports a command", name)
			}
			for _, b := range banned[name] {
				if i == b || (strings.HasSuffix(b, "/") && strings.HasPrefix(i, b)) {
					t.Errorf("%s must not import %s", name, i)
				}
			}
		}
	}
}

func TestDirectModules(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{if not (or .Indirect .Main)}}{{.Path}}{{end}}",
		"all").Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	for m := range strings.FieldsSeq(string(out)) {
		if !slices.Contains(directModules, m) {
			t.Errorf("go.mod requires %s directly, which is not in the list of chosen modules", m)
		}
	}
}

// sources calls use with every Go source file that people write.
func sources(t *testing.T, use func(path string, src []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || (d.Name() != "." && d.Name()[0] == '.')) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err == nil {
			use(path, src)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSizes(t *testing.T) {
	sources(t, func(path string, src []byte) {
		lines := bytes.Split(src, []byte("\n"))
		if len(lines)-1 > maxFileLines {
			t.Errorf("%s has %d lines, at most %d", path, len(lines)-1, maxFileLines)
		}
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		for i, l := range lines {
			if n := utf8.RuneCount(l); n > maxCharacters && !bytes.Contains(l, []byte("`")) {
				t.Errorf("%s:%d: %d characters, at most %d", path, i+1, n, maxCharacters)
			}
		}
		functions(t, path, src)
	})
}

func functions(t *testing.T, path string, src []byte) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, src, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1
		where := fmt.Sprintf("%s: %s", set.Position(fn.Pos()), fn.Name.Name)
		if lines > maxFunctionLines {
			t.Errorf("%s has %d lines, at most %d", where, lines, maxFunctionLines)
		}
		if n := fn.Type.Params.NumFields(); n > maxParameters && fn.Body != nil {
			t.Errorf("%s has %d parameters, at most %d", where, n, maxParameters)
		}
	}
}

// TestComments checks that every package and every exported name has a comment.
func TestComments(t *testing.T) {
	documented := map[string]bool{}
	sources(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || f.Doc != nil
		for _, d := range f.Decls {
			if name := undocumented(d); name != "" {
				t.Errorf("%s: %s is exported and has no comment", path, name)
			}
		}
	})
	for dir, ok := range documented {
		if !ok && !strings.HasPrefix(dir, "proto/") {
			t.Errorf("package %s has no comment", dir)
		}
	}
}

// undocumented returns an exported name of a declaration without a comment.
func undocumented(d ast.Decl) string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d)) {
			return d.Name.Name
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					return s.Name.Name
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					return s.Names[0].Name
				}
			}
		}
	}
	return ""
}

func exportedReceiver(d *ast.FuncDecl) bool {
	t := d.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}
