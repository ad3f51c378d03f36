package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLicencesOfModules holds what is found in the modules of our program against what somebody
// has read there. A module that is new here has to be read, too.
func TestLicencesOfModules(t *testing.T) {
	text, err := os.ReadFile("testdata/licences.txt")
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if module, license, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && line[0] != '#' {
			read[module] = license
		}
	}
	goTool := func(args ...string) string {
		c := exec.Command("go", args...)
		c.Dir = "../.."
		c.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
		out, err := c.Output()
		if err != nil {
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
		return string(out)
	}
	cache := strings.TrimSpace(goTool("env", "GOMODCACHE"))
	found := map[string]bool{}
	for line := range strings.Lines(goTool("list", "-tags", "cuda", "-deps", "-f",
		"{{with .Module}}{{.Path}} {{.Version}}{{end}}", "./cmd/drover")) {
		module, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		if version == "" || found[module] {
			continue
		}
		found[module] = true
		got, err := licenseOf(cache, module, version)
		if err != nil {
			t.Fatal(err)
		}
		if got != read[module] {
			t.Errorf("%s %s is found to be %s; testdata/licences.txt has %q", module, version, got,
				read[module])
		}
	}
	for module := range read {
		if !found[module] {
			t.Errorf("testdata/licences.txt has %s, which is no module of the program's", module)
		}
	}
}

// whole is a text with all that a licence says, and as many words.
func whole(id string) string {
	l := licenses[slices.IndexFunc(licenses, func(l license) bool { return l.id == id })]
	text := strings.Join(l.says, ".\n")
	return text + strings.Repeat(" word", l.words-len(strings.Fields(text))) + "\n"
}

func TestIdentify(t *testing.T) {
	author := "Copyright (c) 2026 Somebody, \"all\" rights reserved.\n"
	bsd3 := whole("BSD-3-Clause")
	for name, tc := range map[string]struct {
		text string
		want string
	}{
		"nothing":              {"", ""},
		"no licence":           {"Do what you like.", ""},
		"MIT":                  {author + whole("MIT"), "MIT"},
		"ISC":                  {author + whole("ISC"), "ISC"},
		"BSD, two clauses":     {author + whole("BSD-2-Clause"), "BSD-2-Clause"},
		"BSD, three clauses":   {author + bsd3, "BSD-3-Clause"},
		"BSD, four clauses":    {author + bsdAdvertising + " " + bsd3, ""},
		"Apache":               {whole("Apache-2.0") + author, "Apache-2.0"},
		"MPL":                  {author + whole("MPL-2.0"), "MPL-2.0"},
		"two":                  {whole("MIT") + author + whole("Apache-2.0"), "MIT Apache-2.0"},
		"twice":                {author + whole("MIT") + author + whole("MIT"), "MIT"},
		"in capitals, wrapped": {strings.ToUpper(strings.ReplaceAll(whole("MIT"), " ", "\n# ")), "MIT"},
		"half of one":          {bsd3[:len(bsd3)/3], ""},
		"out of order":         {licenses[0].says[2] + licenses[0].says[0] + licenses[0].says[1], ""},
		"more than a licence": {whole("MIT") + strings.Repeat("The software may not be sold. ", 20),
			""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(identify(tc.text), " "); got != tc.want {
				t.Errorf("found %q, want %q", got, tc.want)
			}
		})
	}
}

// TestLicenceFiles looks at folders as Go's cache of modules has them.
func TestLicenceFiles(t *testing.T) {
	cache := t.TempDir()
	dir := filepath.Join(cache, "example.com", "!some", "x@v1.0.0-!r!c1")
	if err := os.MkdirAll(filepath.Join(dir, "licenses"), 0o700); err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		got, err := licenseOf(cache, "example.com/Some/x", "v1.0.0-RC1")
		if err != nil || got != want {
			t.Errorf("found %s, %v; want %s", got, err, want)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check(unknown)
	write("license.go", "package x")
	write("NOTICE", whole("ISC"))
	check(unknown)
	write("LICENSE", whole("MIT"))
	check("MIT")
	write("LICENSE.other", whole("Apache-2.0"))
	check("Apache-2.0 AND MIT")
	write("COPYING", "Ask us.")
	check(unknown)
	write("COPYING", whole("MIT"))
	check("Apache-2.0 AND MIT")
	write("Licence.md", strings.Repeat(whole("MIT"), 1+maxLicenseBytes/len(whole("MIT"))))
	check(unknown)
	if _, err := licenseOf(cache, "example.com/absent", "v1.0.0"); err == nil ||
		!strings.Contains(err.Error(), "go mod download") {
		t.Errorf("a module that is not there gives %v", err)
	}
}
