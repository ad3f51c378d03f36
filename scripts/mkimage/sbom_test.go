package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

const h1 = "h1:" + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// noted is what a linker could have noted.
const noted = "path\tdrover/cmd/drover\nmod\tdrover\t(devel)\t\n" +
	"dep\tgithub.com/Azure/x_y\tv2.0.0+incompatible\t" + h1 + "\n" +
	"dep\texample.com/old/v2\tv2.1.0\n=>\texample.com/new\tv0.0.0-2021-ab\t" + h1 + "\n" +
	"dep\texample.com/local\tv1.0.0\n=>\t./local\t\t\n" +
	"build\tCGO_ENABLED=0\nbuild\tGOARCH=arm64\nbuild\tGOOS=linux\n"

// TestModules checks what is said of each module of a program.
func TestModules(t *testing.T) {
	info, err := debug.ParseBuildInfo(noted)
	if err != nil {
		t.Fatal(err)
	}
	info.GoVersion = "go1.26.1 X:nodwarf5"
	s := place(t, "text", 0o600, time.Unix(1, 0))
	s.created = 1e9
	d, err := s.describe(info, []byte("text"), platform{"arm64", "linux"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := d.finish()
	if err != nil {
		t.Fatal(err)
	}
	packages := validate(t, text)
	hash := "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	for name, want := range map[string]string{
		"prog":                 "1 pkg:golang/drover@1 " + digest([]byte("text"))[7:] + " MIT",
		"stdlib":               "1.26.1 pkg:golang/stdlib@1.26.1  BSD-3-Clause",
		"github.com/Azure/x_y": "v2.0.0+incompatible pkg:golang/github.com/azure/x_y@v2.0.0%2Bincompatible " + hash + " NOASSERTION",
		"example.com/new":      "v0.0.0-2021-ab pkg:golang/example.com/new@v0.0.0-2021-ab " + hash + " NOASSERTION",
		"./local":              "<nil>   NOASSERTION",
	} {
		p := packages[name]
		sum, locator := "", ""
		if all, ok := p["checksums"].([]any); ok {
			sum = all[0].(map[string]any)["checksumValue"].(string)
		}
		if all, ok := p["externalRefs"].([]any); ok {
			locator = all[0].(map[string]any)["referenceLocator"].(string)
		}
		got := fmt.Sprintf("%v %s %s %v", p["versionInfo"], locator, sum, p["licenseDeclared"])
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
		if sum == hash && !strings.Contains(p["comment"].(string), h1) {
			t.Errorf("%s does not say what its checksum is: %v", name, p["comment"])
		}
	}
	if c := packages["example.com/new"]["comment"].(string); !strings.Contains(c,
		"example.com/old/v2 v2.1.0") {
		t.Errorf("a replacement does not say of what: %s", c)
	}
	if len(packages) != 5 {
		t.Errorf("there are %d packages", len(packages))
	}
}

// TestSBOM lists this test's own program beside the bundled model, twice.
func TestSBOM(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	s := &spec{name: "localhost/x:1", created: 1e9, model: "../../models/tiny-maverick"}
	if err := s.addProgram(runtime.GOOS + "/" + runtime.GOARCH + "=" + own); err != nil {
		t.Fatal(err)
	}
	shared := []file{{bundlePlace, []byte("authorities"), 0o644},
		{"models/tiny-maverick/b", []byte("b"), 0o644}, {"models/tiny-maverick/a", nil, 0o644}}
	text, err := s.sbom(s.programs[0], content, shared)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(shared)
	again, err := s.sbom(s.programs[0], content, shared)
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same program gave two lists, %v", err)
	}
	packages := validate(t, text)
	lines := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n" +
		"3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  b\n"
	for name, data := range map[string]string{filepath.Base(own): string(content),
		"tiny-maverick": lines, "ca-certificates": "authorities"} {
		sums, _ := packages[name]["checksums"].([]any)
		if len(sums) != 1 || sums[0].(map[string]any)["checksumValue"] != digest([]byte(data))[7:] {
			t.Errorf("%s has the checksums %v", name, sums)
		}
	}
	if c, _ := packages["tiny-maverick"]["comment"].(string); !regexp.MustCompile(
		`digest of the model is [0-9a-f]{64}\.`).MatchString(c) {
		t.Errorf("the model's digest is not in %q", c)
	}
	s.programs[0].platform.Architecture = "other"
	if _, err := s.sbom(s.programs[0], content, nil); err == nil ||
		!strings.Contains(err.Error(), "not "+runtime.GOOS+"/other") {
		t.Errorf("a program of another platform gives %v", err)
	}
}

// TestSBOMInside checks that the list in the image is the one beside it, and that a program
// that is not Go's is refused.
func TestSBOMInside(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &spec{name: "localhost/x:1"}
	if err := s.addProgram(runtime.GOOS + "/" + runtime.GOARCH + "=" + own); err != nil {
		t.Fatal(err)
	}
	if err := s.list("99999999999999"); err == nil {
		t.Error("a time was taken whose year has five digits")
	}
	if err := s.list("1700000000"); err != nil {
		t.Fatal(err)
	}
	b, err := s.build()
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, bytes.NewReader(b.archive))
	var top manifests
	decode(t, files["index.json"], &top)
	tree, _ := follow(t, files, top.Manifests[0])
	beside := runtime.GOOS + "-" + runtime.GOARCH + ".spdx.json"
	if len(b.sboms) != 1 || b.sboms[0].name != beside ||
		!bytes.Equal(tree["sbom.spdx.json"], b.sboms[0].data) {
		t.Errorf("in the image is %q, beside it %+v", tree["sbom.spdx.json"], b.sboms)
	}
	validate(t, b.sboms[0].data)
	other := place(t, "no program of Go's", 0o600, time.Unix(1, 0))
	other.listed = true
	if _, err := other.build(); err == nil || !strings.Contains(err.Error(), "prog: ") {
		t.Errorf("text for a program gives %v", err)
	}
}

// needs says what SPDX 2.3 asks of the fields that it requires, and of those that we write.
var needs = map[string]map[string]string{
	"document": {
		"spdxVersion": `SPDX-2\.3`, "dataLicense": `CC0-1\.0`, "SPDXID": `SPDXRef-DOCUMENT`,
		"name": `.+`, "documentNamespace": `https://[^#\s]+`,
	},
	"creationInfo": {"created": `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`},
	"package": {
		"SPDXID": `SPDXRef-[a-zA-Z0-9.-]+`, "name": `.+`, "downloadLocation": `NOASSERTION`,
		"filesAnalyzed": `false`, "primaryPackagePurpose": `APPLICATION|LIBRARY|FILE|OTHER`,
		"licenseConcluded": `NOASSERTION`, "licenseDeclared": `NOASSERTION|[A-Z][A-Za-z0-9.-]+( AND [A-Z][A-Za-z0-9.-]+)*`,
		"copyrightText": `NOASSERTION`,
	},
	"checksum": {"algorithm": `SHA256`, "checksumValue": `[0-9a-f]{64}`},
	"reference": {"referenceCategory": `PACKAGE-MANAGER`, "referenceType": `purl`,
		"referenceLocator": `pkg:golang/[a-z0-9%._~/-]+@[A-Za-z0-9.%_-]+`},
	"relationship": {"relationshipType": `DESCRIBES|DEPENDS_ON`, "spdxElementId": `.+`,
		"relatedSpdxElement": `.+`},
}

func check(t *testing.T, kind string, v any) map[string]any {
	t.Helper()
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("a %s is %v", kind, v)
	}
	for field, pattern := range needs[kind] {
		if got := fmt.Sprint(m[field]); m[field] == nil ||
			!regexp.MustCompile("^(?:"+pattern+")$").MatchString(got) {
			t.Errorf("%s of a %s is %q, want %s: %v", field, kind, got, pattern, m)
		}
	}
	return m
}

// validate holds a document against SPDX 2.3 and returns its packages by name.
func validate(t *testing.T, text []byte) map[string]map[string]any {
	t.Helper()
	var v any
	decode(t, text, &v)
	d := check(t, "document", v)
	if c := check(t, "creationInfo", d["creationInfo"]); !regexp.MustCompile(
		`^\[Tool: \S+-\S+\]$`).MatchString(fmt.Sprint(c["creators"])) {
		t.Errorf("the document's creators are %v", c["creators"])
	}
	byName, ids := map[string]map[string]any{}, map[any]bool{"SPDXRef-DOCUMENT": true}
	list := func(v any) []any { l, _ := v.([]any); return l }
	for _, v := range list(d["packages"]) {
		p := check(t, "package", v)
		if ids[p["SPDXID"]] {
			t.Errorf("%v is there twice", p["SPDXID"])
		}
		ids[p["SPDXID"]], byName[p["name"].(string)] = true, p
		for _, c := range list(p["checksums"]) {
			check(t, "checksum", c)
		}
		for _, r := range list(p["externalRefs"]) {
			check(t, "reference", r)
		}
	}
	reached := map[any]bool{"SPDXRef-DOCUMENT": true}
	for _, v := range list(d["relationships"]) {
		r := check(t, "relationship", v)
		if !reached[r["spdxElementId"]] || !ids[r["relatedSpdxElement"]] {
			t.Errorf("%v is of what is not there", r)
		}
		reached[r["relatedSpdxElement"]] = true
	}
	if len(reached) != len(ids) {
		t.Errorf("%d of %d elements have a relationship", len(reached), len(ids))
	}
	return byName
}
